"""The processes of one run: connection, agreement and detection of lost ones."""
