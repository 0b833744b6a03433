"""Logs and metrics.

Nouns: Log, Counter, Gauge, Histogram, Metrics. Every metric is declared in ``metrics``, every line is made by ``log``.
Must not know what it counts: parts that count in their own way (native code) are read through callables.
"""
