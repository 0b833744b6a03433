"""What this node serves is what it tells the others: from a store's events to the router.

Nouns: Announced (the pure ledger), Advertiser (runs it). It knows no protocol between nodes and no HTTP.
"""
