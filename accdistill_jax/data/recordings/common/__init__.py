"""Helpers of several readers: one recording per file, block times, and restricted pickles."""
