"""Makes the C library keep freed memory for reuse."""

import ctypes
import importlib.util
import os
import sys

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # of mallopt(3)
_NEVER = 2**31 - 1


def keep_freed() -> bool:
    """Where JAX will compute on CPU, tells glibc to keep freed memory for the next allocation; whether it was told.

    To be called before JAX starts its threads, which have their memory from where they first found it. XLA on CPU allocates a
    program's temporary memory (1.2 GB in a step of the paper-size student) at every call. Handed back in between, each page of
    it is faulted in and zeroed anew: a tenth of the step. The price is that the process stays as large as it once was. GPUs
    and TPUs have allocators of their own and nothing to gain.
    """
    if not sys.platform.startswith("linux") or not computes_on_cpu():
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return all([mallopt(_ARENA_MAX, 1), mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, _NEVER)])


def computes_on_cpu() -> bool:
    """True if JAX has no other platform, found without starting it."""
    if os.environ.get("JAX_PLATFORMS"):
        return os.environ["JAX_PLATFORMS"] == "cpu"
    return not any(importlib.util.find_spec(name) for name in ("jax_plugins", "libtpu"))
