"""What a failing peer costs real pulls; see ``run.py``."""
