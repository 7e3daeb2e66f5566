"""One config for each method or run; `datasets/` suits them to data, `papers/` has published ones.

`recipes.py` holds what the stages of all methods have in common.
"""
