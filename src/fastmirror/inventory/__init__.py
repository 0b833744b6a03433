"""Who is there and what each one has, as pure state machines: frames in, frames and facts out, time as an argument.

Nouns: Card (what a node says of itself, signed), KeySet (fingerprints of what it has), Member (a node as another one
sees it), Link (a connection to one). It knows no socket, no clock and no file; ``p2p`` runs it over libp2p.
Specified in docs/inventory.md.
"""
