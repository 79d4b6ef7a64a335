"""Ways of training an encoder, one file each; `base` is their protocol, `registered` lists them by name (without importing jax)."""
