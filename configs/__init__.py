"""One config for each method or run; `datasets/` suits them to data, `papers/` has published tables.

`recipes.py` holds what the stages of all methods have in common.
"""
