"""What the tests share: real processes, clusters of them, faulty peers, pulling clients, and what must always hold.

Nouns: Node, Cluster, FaultyPeer, Fault, Wire, Answer, Puller, Witness.
"""
