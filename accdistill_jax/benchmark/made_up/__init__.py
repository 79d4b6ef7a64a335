"""Made-up stores, recordings and an object store for measurements."""
