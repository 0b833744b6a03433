"""Pieces of a content are checked before they are passed on, against lists of their hashes that holders give.

Nouns: ChunkList (hashes of a content's pieces), Trust (what is believed of what peers say and send), Checks (native
threads that hash), Verifier (all checks of one content on its way), ListServer (the lists that this node gives),
Scrubber (finds files here that do not have their digest).
Knows peers, files and HTTP; nothing of spools, plans, fetches or endpoint rules.
"""
