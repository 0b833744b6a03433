"""``fastmirror bench``: how fast a node serves on this machine, over loopback, with nothing but the installed package.

Nouns: Load, Sample (client), Server (server), Row, Report (report). It knows no other contender: those are in the
repository's benches. Knows nothing of peers, routers or containerd.
"""
