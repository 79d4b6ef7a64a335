"""The command that turns recordings into a store: `python -m accdistill_jax.data.prepare`."""
