"""ferjax: facial-expression recognition from labels that cannot be trusted, in JAX."""
