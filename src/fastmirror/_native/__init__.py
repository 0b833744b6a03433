"""Faces of the compiled modules; their bodies are in ``ext/``. Imports nothing else of fastmirror."""
