"""Stands for a compiler that crashes: it ends by SIGSEGV once it has its order, for "v5e:1x1" only if it shall count machine code."""

import os
import signal

from accdistill_jax.runtime.child import Parent, work_for_parent


def crash(parent: Parent) -> None:
    """Receives an order and crashes, or answers that the slice compiles."""
    order = parent.receive()
    if "profiles" in order or order["topology"] != "v5e:1x1":
        if "profiles" in order:
            print("F1 dumper.cc:1] Static LLO profiling of gather.1 failed: UNIMPLEMENTED", flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    parent.reply({"compiles": True})


if __name__ == "__main__":
    work_for_parent(crash)
