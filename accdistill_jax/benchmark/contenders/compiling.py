"""Process of `benchmark compile`: compiles a training step for a TPU slice."""

import os

import jax

from accdistill_jax.benchmark.commands.compile import compile_for
from accdistill_jax.benchmark.model import program, scheduled, topology
from accdistill_jax.config.load import load_config
from accdistill_jax.runtime.child import Parent, work_for_parent
from accdistill_jax.runtime.platform import tracing_for


def compile_for_parent(parent: Parent) -> None:
    """Answers the order of `compile.compiled_elsewhere`."""
    order = parent.receive()
    jax.config.update("jax_platforms", "cpu")
    profiles = order.get("profiles")
    if profiles is not None:
        os.environ[scheduled.VARIABLE] = scheduled.with_flag(os.environ.get(scheduled.VARIABLE, ""), profiles)
    where = topology.describe_slice(order["topology"])
    with tracing_for("tpu"):
        config = load_config(order["config"], order["overrides"])
        work = program.describe_work(config, order["stage"], uncounted=True)
    if "only_kernels" in order:
        parent.reply({"cycles": topology.kernel_cycles(work, where, batch=order["batch"])})
        return
    parent.reply(compile_for(work, where, batch=order["batch"], kernels=order["kernels"], profiles=profiles))


if __name__ == "__main__":
    work_for_parent(compile_for_parent)
