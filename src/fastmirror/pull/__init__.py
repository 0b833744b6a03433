"""A measured pull, as containerd would do it: hosts in order, three blobs at a time, resumed after an early end.

Nouns: ImageName, Platform, Host, Measured, Report. Threads and blocking sockets, no event loop.
"""
