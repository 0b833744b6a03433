"""One layer from many peers at once, over links of a known rate; see ``run.py``."""
