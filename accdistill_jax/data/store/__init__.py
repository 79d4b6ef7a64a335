"""The store of segments on disk: format, writing, reading, splits."""
