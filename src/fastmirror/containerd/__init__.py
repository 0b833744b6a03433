"""containerd: its content as a store, its hosts.toml, and what can be wrong between it and us.

Nouns: ContainerdStore, Helper (the process that speaks gRPC), Holdings (which files are the namespace's).
Only ``client`` imports grpc, and only the helper process and the command line import ``client``: beside the data plane
gRPC's threads would cost it latency (docs/containerd.md has the figures).
"""
