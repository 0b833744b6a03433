"""Everything that reads what others wrote, fed with what nobody would write. See ``python -m tests.fuzz --help``."""
