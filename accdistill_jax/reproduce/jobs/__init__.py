"""Training runs as jobs of worker processes."""
