"""The processes that are measured against each other, one file each."""
