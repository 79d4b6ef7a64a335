"""The platform for which a program is traced."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

PORTABLE = "portable"  # for `tracing_for`: textbook operations alone, for exports to other runtimes

_PLATFORM: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)


def platform() -> str:
    """Platform for which programs are traced, "cpu", "gpu", "tpu" or `PORTABLE`: the default backend unless `tracing_for` names another."""
    return _PLATFORM.get() or jax.default_backend()


@contextlib.contextmanager
def tracing_for(name: str) -> Iterator[None]:
    """Context that traces programs for a platform, even if this machine has no such device.

    A function that was traced before keeps the platform of that trace.
    """
    token = _PLATFORM.set(name)
    try:
        yield
    finally:
        _PLATFORM.reset(token)


def on_cpu() -> bool:
    """True if programs are traced for the CPU, where memory bandwidth and not arithmetic limits the speed."""
    return platform() == "cpu"
