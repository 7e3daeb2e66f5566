"""Networks and layers; every convolution can be stacked under `vmap`."""
