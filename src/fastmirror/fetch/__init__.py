"""Many peers become one verified blob.

Nouns: FetchTable (one LayerFetch per digest), LayerFetch, Tap (what a reader holds), Spool, PeerBook, Handover, Sizes.
Knows no endpoint rule and no containerd; finds holders through a Router, moves bytes through ``http.client``.
"""
