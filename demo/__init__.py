"""The main job, shown: three nodes and an origin registry on this machine, an image pulled, a node killed on the way.

``python -m demo``. No root needed. The files: ``images`` makes what is pulled, ``origin`` is the registry, ``link`` is
the network between the nodes, ``cluster`` runs the nodes, ``client`` plays containerd, ``steps`` is the story, and
``report`` tells it.
"""
