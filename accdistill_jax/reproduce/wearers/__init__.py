"""Leave one wearer out: errors of a student on real wearers that it has not seen, beside methods without learning."""
