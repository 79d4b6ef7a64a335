"""The grid of experiments, and the command line that chooses from it."""
