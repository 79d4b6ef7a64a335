"""Evaluation per participant: health targets predicted from mean embeddings."""
