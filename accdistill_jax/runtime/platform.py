"""The platform that a program is traced for."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_PLATFORM: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)


def platform() -> str:
    """What is traced now is for: "cpu", "gpu" or "tpu"; the default backend unless `tracing_for` says otherwise."""
    return _PLATFORM.get() or jax.default_backend()


@contextlib.contextmanager
def tracing_for(name: str) -> Iterator[None]:
    """What is traced inside is for that platform, whatever devices are at hand: to look at other platforms' programs.

    A function that was jitted and traced before keeps the choice it was traced with.
    """
    token = _PLATFORM.set(name)
    try:
        yield
    finally:
        _PLATFORM.reset(token)


def on_cpu() -> bool:
    """Whether what is traced now is for the CPU, where memory decides and not arithmetic."""
    return platform() == "cpu"
