"""The commands of `python -m accdistill_jax.benchmark`, one file each."""
