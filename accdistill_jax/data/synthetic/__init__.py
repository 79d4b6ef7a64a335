"""The generator of synthetic recordings."""
