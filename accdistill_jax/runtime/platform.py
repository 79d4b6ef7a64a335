"""The platform that a program is traced for."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_PLATFORM: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)


def platform() -> str:
    """Platform that programs are traced for now, "cpu", "gpu" or "tpu": the default backend unless `tracing_for` names another."""
    return _PLATFORM.get() or jax.default_backend()


@contextlib.contextmanager
def tracing_for(name: str) -> Iterator[None]:
    """Context that traces programs for a platform, whatever devices are at hand: to look at other platforms' programs.

    A function that was jitted and traced before keeps the choice it was traced with.
    """
    token = _PLATFORM.set(name)
    try:
        yield
    finally:
        _PLATFORM.reset(token)


def on_cpu() -> bool:
    """True if what is traced now is for the CPU, where memory decides and not arithmetic."""
    return platform() == "cpu"
