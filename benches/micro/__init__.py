"""One question per file; each prints its answer and what it was measured on."""
