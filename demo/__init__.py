"""The main job, shown: three nodes and an origin registry on this machine, an image pulled, a node killed on the way.

``python -m demo``. Where this machine allows it (root, namespaces, a containerd), each node has a containerd of its own
and a network of its own: ``network`` makes these, ``nodes`` runs the nodes and ``real`` is the story. Else no root is
needed: ``link`` is the network between the nodes, ``cluster`` runs them, ``client`` plays containerd, and ``steps`` is
the story. For both, ``images`` makes what is pulled, ``origin`` is the registry and ``report`` tells the story.
"""
