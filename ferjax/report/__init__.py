"""Reports: `DIR/report/index.html` with its figures beside it, one module for each kind of run."""
