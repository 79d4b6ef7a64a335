"""Retrieval of the PPG of a minute by its acceleration, and the reverse."""
