"""A node-local, peer-to-peer mirror for OCI images, in front of containerd."""

__version__ = "0.1.0"
