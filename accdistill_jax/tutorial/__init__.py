"""A tutorial: `python -m accdistill_jax.tutorial.first_minute`, or its cells in an editor that knows `# %%`."""
