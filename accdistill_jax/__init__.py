"""Cross-modal distillation of PPG representations into accelerometer encoders.

    import accdistill_jax as ad

    encoder = ad.load("runs/distill")  # the student of a finished run
    store = ad.open_store("store")  # segments that `accdistill prepare` made
    embeddings = encoder.encode(store.read(store.indices("test")))
    embeddings = encoder.embed(accel, rate_hz=50, unit="g")  # an array of your own, a row for each minute

The import itself is fast: jax is imported by the first use of a name.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accdistill_jax.api.encoder import TrainedEncoder
    from accdistill_jax.api.loading import load
    from accdistill_jax.api.shipped import ShippedEncoder, shipped_encoders
    from accdistill_jax.api.store import open_store
    from accdistill_jax.data.store.store import Store
    from accdistill_jax.errors import SignalWarning, UserError

__version__ = "0.1.0"
__all__ = [
    "ShippedEncoder",
    "SignalWarning",
    "Store",
    "TrainedEncoder",
    "UserError",
    "__version__",
    "load",
    "open_store",
    "shipped_encoders",
]

_HOMES = {
    "ShippedEncoder": "accdistill_jax.api.shipped",
    "SignalWarning": "accdistill_jax.errors",
    "Store": "accdistill_jax.data.store.store",
    "TrainedEncoder": "accdistill_jax.api.encoder",
    "UserError": "accdistill_jax.errors",
    "load": "accdistill_jax.api.loading",
    "open_store": "accdistill_jax.api.store",
    "shipped_encoders": "accdistill_jax.api.shipped",
}


def __getattr__(name: str) -> Any:
    """Imports a public name by its first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
