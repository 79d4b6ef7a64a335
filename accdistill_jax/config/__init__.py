"""A run's configuration: its rules, its record and its command line."""
