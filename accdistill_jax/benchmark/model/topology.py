"""Lowers the training step for a TPU slice on a machine without TPUs, with libtpu and with shapes in place of arrays."""

import importlib.util
import os
import re
from typing import Any, NamedTuple

import jax
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from accdistill_jax.benchmark.model import optimised, program
from accdistill_jax.benchmark.model.hardware import TPU_CHIPS
from accdistill_jax.benchmark.model.operations import find_kernels, traced_flops
from accdistill_jax.errors import UserError
from accdistill_jax.runtime.parallel import SPLIT, WHOLE, Parallel
from accdistill_jax.runtime.platform import tracing_for
from accdistill_jax.training.step import TrainState, state_spec

_NAME = re.compile(rf"({'|'.join(TPU_CHIPS)}):(\d+(?:x\d+){{1,2}})")
# libtpu looks for a TPU in this machine and prints long messages if it finds none.
_QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no TPU is used, so other processes may use or compile for TPUs
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
}


class Slice(NamedTuple):
    """A TPU slice.

    Attributes:
        name: generation and chips along each axis, such as "v5e:4x4".
        generation: key of `TPU_CHIPS`.
        devices: its devices, a device per chip.
    """

    name: str
    generation: str
    devices: list[Any]


def describe_slice(name: str) -> Slice:
    """The slice with a name such as "v5e:4x4".

    Raises:
        UserError: an unknown slice, or libtpu is not installed.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise UserError(
            f"--topology {name!r} is not a TPU slice: write {', '.join(TPU_CHIPS)}, a colon and the chips along each axis, such as "
            "v5e:4x4 or v5p:4x4x4"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "libtpu, which contains the TPU's compiler, is not installed: pip install 'accdistill_jax[tpu]' in a separate environment "
            "(it needs no TPU)"
        )
    for key, value in _QUIET.items():
        os.environ.setdefault(key, value)
    from jax.experimental import topologies

    generation, axes = match[1], [int(size) for size in match[2].split("x")]
    options: dict[str, Any] = {"chip_config_name": "megacore"} if generation == "v4" else {}
    if max(axes) == 1:
        options["chips_per_host_bounds"] = [1, 1, 1]
    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"--topology {name!r}: {error_line(error)}") from error
    return Slice(name, generation, list(devices))


def lower(work: program.Work, where: Slice, *, batch: int) -> tuple[Any, int]:
    """Lowers the training step for a slice.

    Args:
        work: the stage, described under `tracing_for("tpu")`.
        where: the slice.
        batch: segments per chip.

    Returns:
        The lowered step and its number of metrics.
    """
    with tracing_for("tpu"):
        step, arguments = _step(work, where, batch)
        lowered = step.lower(*arguments)
    return lowered, len(lowered.out_info[1])


def step_flops(work: program.Work, where: Slice, *, batch: int) -> int:
    """FLOP of the matrix products of a step on a slice, per chip: by formula, or of the traced step if there is no formula.

    Args:
        work: as for `lower`.
        where: the slice.
        batch: segments per chip.
    """
    if not work.uncounted:
        return work.step_flops(batch=batch, global_batch=batch * len(where.devices))
    with tracing_for("tpu"):
        step, arguments = _step(work, where, batch)
        return traced_flops(jax.make_jaxpr(step)(*arguments).jaxpr)


def kernel_cycles(work: program.Work, where: Slice, *, batch: int) -> dict[str, int]:
    """Cycles of the scheduled code of this project's kernels in a step, each compiled alone; `scheduled.with_flag` must be set.

    Args:
        work: as for `lower`.
        where: the slice.
        batch: segments per chip.

    Returns:
        Cycles of one execution, by `optimised.Instruction.kernel`; kernels that are not counted are left out.
    """
    with tracing_for("tpu"):
        step, arguments = _step(work, where, batch)
        kernels = find_kernels(jax.make_jaxpr(step)(*arguments).jaxpr)
    chip, cycles = SingleDeviceSharding(where.devices[0]), {}
    for kernel in kernels.values():
        shapes = [jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=chip) for shape in kernel.shapes]
        compiled = jax.jit(kernel.alone).lower(*shapes).compile()
        cycles |= optimised.kernels_of(compiled.as_text() or "")
    return cycles


def _step(work: program.Work, where: Slice, batch: int) -> tuple[Any, tuple[Any, Any, Any]]:
    """The mapped step, and the shapes of its arguments."""
    parallel = Parallel(work.config.runtime.mapping, devices=where.devices)
    built = program.build_program(work, parallel)
    shapes, specs = jax.eval_shape(built.initial, work.params), state_spec(built.layout)
    state = TrainState(*(_placed(spec, each, parallel, flat=True) for spec, each in zip(specs, shapes, strict=True)))
    rows = _placed(SPLIT, work.batch_shapes(batch * parallel.num_devices), parallel)
    return built.step, (state, _placed(WHOLE, work.frozen, parallel), rows)


def _placed(spec: Any, shapes: Any, parallel: Parallel, *, flat: bool = False) -> Any:
    """Shapes of arrays as they are placed on the devices.

    Args:
        spec: `WHOLE`, `SPLIT` or a tree of them.
        shapes: shapes of the whole arrays.
        parallel: the devices.
        flat: split arrays are flattened and padded first, as in the optimiser's state.
    """
    count = parallel.num_devices

    def of(part: Any, shape: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        size = (-(-shape.size // count) * count,) if flat and part == SPLIT else shape.shape
        if parallel.mapping == "pmap":
            size = size if part == WHOLE else (size[0] // count, *size[1:])
            # pmap assumes that this process is the only process and owns all devices
            return jax.ShapeDtypeStruct((count, *size), shape.dtype)
        return jax.ShapeDtypeStruct(size, shape.dtype, sharding=NamedSharding(parallel.mesh, part))

    if isinstance(spec, PartitionSpec):
        return jax.tree.map(lambda shape: of(spec, shape), shapes)
    return jax.tree.map(of, spec, shapes, is_leaf=lambda leaf: isinstance(leaf, PartitionSpec))


def error_line(error: Exception) -> str:
    """The first line of an error's text."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
