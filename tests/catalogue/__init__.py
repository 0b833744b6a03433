"""The catalogue of HTTP requests, good and bad, and its runner. ``python -m tests.catalogue HOST PORT`` runs it alone.

Nouns: Case, Fixture, Outcome, Verdict. Needs nothing but the standard library, and knows the server only by its port.
"""
