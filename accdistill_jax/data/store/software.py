"""Versions of the software that made a store."""

from importlib import metadata

from accdistill_jax import __version__


def software_versions() -> dict[str, str]:
    """Versions for the manifest."""
    return {"accdistill_jax": __version__} | {
        name: metadata.version(name) for name in ("numpy", "scipy", "tensorstore", "pyarrow")
    }
