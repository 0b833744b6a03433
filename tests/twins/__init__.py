"""Python versions of native classes: the same tests pass on both; they are also the readable specification."""
