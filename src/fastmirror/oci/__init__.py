"""The vocabulary of OCI: digests, descriptors, references, manifests, pull requests and byte spans.

Nouns: Digest, Descriptor, Reference, Pull, Span. Pure: no I/O, no clock, imports only ``errors``.
"""
