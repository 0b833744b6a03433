"""Benchmarks: one package per question, run from the repository's root."""
