"""The registry endpoint: a request becomes a Pull, a Pull becomes an answer.

Nouns: Mirror (the Answer of a listener), Filters, Remote (answers from other nodes). Knows no containerd and no libp2p.
"""
