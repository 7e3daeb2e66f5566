"""One config for each published table, with the authors' recipe."""
