"""Heart rate by classical signal processing, the baseline without learning."""
