"""Retrieval: the PPG of the same minute found by acceleration."""
