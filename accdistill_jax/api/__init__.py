"""The public Python API: `accdistill_jax.load` and `accdistill_jax.open_store`."""
