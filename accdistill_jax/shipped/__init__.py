"""The encoders that come with the package, and the command that makes them: `python -m accdistill_jax.shipped`."""
