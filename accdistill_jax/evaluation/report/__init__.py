"""A run's report: text, tables and plots."""
