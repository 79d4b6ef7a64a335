"""The report of all experiments: document, pictures and check."""
