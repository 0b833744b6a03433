"""The tests of fastmirror; ``tests.kit`` is what they share, ``tests.catalogue`` also runs by itself."""
