"""Generated stores and recordings, and a local object store, for measurements."""
