"""`python -m accdistill_jax.reproduce`: the grid of experiments behind the claims, and its report."""
