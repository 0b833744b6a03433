"""Bytes to messages and back; knows no rule of OCI.

Nouns: Request, Reply, FileBody, Server, PeerClient.
"""
