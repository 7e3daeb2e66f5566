"""One config for each method or kind of run.

`datasets/` adapts them to datasets, `papers/` has the recipes of published tables, and `recipes.py`
what the stages of all methods have in common.
"""
