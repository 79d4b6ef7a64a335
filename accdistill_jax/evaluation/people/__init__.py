"""Evaluation per participant: health targets read from embeddings."""
