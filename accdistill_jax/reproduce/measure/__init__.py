"""Measurements on the trained encoders, one section of the report each."""
