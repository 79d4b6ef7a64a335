"""Probes on frozen embeddings."""
