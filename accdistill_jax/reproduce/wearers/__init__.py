"""Leave one wearer out: what a student knows of real wearers that it has not seen, beside methods without learning."""
