"""Stands for a compiler that crashes: it ends by SIGSEGV once it has its order."""

import os
import signal

from accdistill_jax.runtime.child import Parent, work_for_parent


def crash(parent: Parent) -> None:
    """Receives an order and crashes."""
    parent.receive()
    os.kill(os.getpid(), signal.SIGSEGV)


if __name__ == "__main__":
    work_for_parent(crash)
