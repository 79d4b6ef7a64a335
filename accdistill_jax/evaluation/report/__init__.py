"""Report of a run: text, tables and plots."""
