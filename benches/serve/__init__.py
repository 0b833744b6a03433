"""How fast is one node's data plane: fastmirror beside nginx on the same machine, in one run.

``python -m benches.serve --quick`` or ``--full``. Method: docs/benchmarks.md, rendered from benches/results/.
"""
