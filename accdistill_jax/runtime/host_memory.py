"""Makes the C library keep freed memory for reuse."""

import ctypes
import importlib.util
import os
import sys

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # of mallopt(3)
_NEVER = 2**31 - 1


def keep_freed() -> bool:
    """Makes glibc keep freed memory for the next allocation, if JAX will compute on the CPU; True if it does.

    Call it before JAX starts its threads, because a thread keeps its first allocation arena. XLA on CPU allocates the temporary
    memory of a program at every call (1.2 GB in a step of the paper-size student). If glibc returns that memory to the system in
    between, each page is faulted in and zeroed again, which takes a tenth of the step. The price: the process never shrinks. GPUs
    and TPUs have their own allocators and gain nothing.
    """
    if not sys.platform.startswith("linux") or not computes_on_cpu():
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return all([mallopt(_ARENA_MAX, 1), mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, _NEVER)])


def computes_on_cpu() -> bool:
    """True if the CPU is JAX's only platform; does not start JAX."""
    if os.environ.get("JAX_PLATFORMS"):
        return os.environ["JAX_PLATFORMS"] == "cpu"
    return not any(importlib.util.find_spec(name) for name in ("jax_plugins", "libtpu"))
