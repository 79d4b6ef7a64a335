"""The training loop: step, optimiser, metrics."""
