"""One config for each method or run; `datasets.py` holds what they share."""
