"""Whether nodes that run for long keep what they should give back. See ``python -m tests.leaks --help``."""
