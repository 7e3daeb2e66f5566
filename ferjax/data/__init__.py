"""Records, input pipelines, label noise and datasets."""
