"""A measuring process for many forms of the training step: it compiles them in parallel, then times them on request.

The parent (`benchmark/commands/gpu.py`) sends an order and then commands, each a JSON object, and gets an answer to each:

    order                      -> device and memory; the weights are written, so that a peer in another process can start
    {"compile": true}          -> facts of every variant: seconds to compile, memory, attention, or the reason of its failure
    {"measure": N, "count": K} -> seconds of K steps of variant number N, or the reason of its failure
    {"profile": N, "count": K} -> operations of K steps, by the time that the device spent on them

Tracing uses a single core, compilation many: all variants are traced first and then compiled by threads.
"""

import contextlib
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from accdistill_jax.benchmark.contenders.training import (
    made_up_batch,
    made_up_params,
    made_up_teacher,
    write_followed,
    write_start,
)
from accdistill_jax.benchmark.model import program
from accdistill_jax.config.convert import parse_section
from accdistill_jax.config.schema import Config
from accdistill_jax.models import attention, gpu_kernels
from accdistill_jax.runtime import host_memory
from accdistill_jax.runtime.child import Parent, work_for_parent
from accdistill_jax.runtime.parallel import Parallel

CUDNN_ATTENTION = re.compile(r'custom_call_target="__cudnn\$fmha\w*Backward')  # a match per trained block


class StepVariant:
    """A form of the training step.

    Args:
        order: "name"; "config", plain values; "stage"; "batch", segments per device; "compiler_options" of XLA; "attention", a forced
            form of attention, or ""; "kernels", names in models/gpu_kernels.py.

    Attributes:
        name: name of the order.
        failed: reason of its failure, "" for none.
        facts: facts of the compiled program.
        batch: batch on the host.
        params: trained parameters at the start, on the host.
        frozen: frozen teacher, on the host.
    """

    def __init__(self, order: dict[str, Any]):
        self.name: str = order["name"]
        self.failed = ""
        self.facts: dict[str, Any] = {}
        self._order = order
        config = parse_section(Config, order["config"])
        self._parallel = Parallel(config.runtime.mapping)
        self._work = program.describe_work(config, order["stage"])
        self._built = program.build_program(self._work, self._parallel)
        self.batch = made_up_batch(self._work, order["batch"] * self._parallel.num_local)
        self.params, self.frozen = made_up_params(self._work.params, seed=2), made_up_teacher(self._work.frozen)
        self._state: Any = None
        self._placed: Any = None
        self._lowered: Any = None
        self._compiled: Any = None

    def trace(self) -> None:
        """Places the state on the device and traces the step."""
        self._state = self._built.start(self.params, self._parallel)
        self._placed = self._parallel.replicate(self.frozen)
        forced = self._order["attention"]
        with (
            attention.forced(forced) if forced else contextlib.nullcontext(),
            gpu_kernels.used(*self._order["kernels"]),
        ):
            self._lowered = self._built.step.lower(self._state, self._placed, self._parallel.place(self.batch))

    def compile(self) -> None:
        """Compiles the traced step and sets `facts`."""
        start = time.perf_counter()
        self._compiled = self._lowered.compile(compiler_options=self._order["compiler_options"] or None)
        self._lowered = None
        text, memory = self.text(), self._compiled.memory_analysis()
        devices = jax.device_count()
        batch = self._order["batch"]
        self.facts = {
            "compile_s": time.perf_counter() - start,
            "temporary_bytes": getattr(memory, "temp_size_in_bytes", None),
            "fused_attentions": len(CUDNN_ATTENTION.findall(text)),
            "segments": batch * devices,
            "flops": self._work.step_flops(batch=batch, global_batch=batch * devices) * devices,
        }

    def text(self) -> str:
        """Text of the optimised program."""
        return self._compiled.as_text()

    def run(self, steps: int) -> dict[str, float]:
        """Runs steps as the training loop does, with metrics fetched a step later; returns the metrics of the last step.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        pending = None
        for _ in range(steps):
            batch = self._parallel.place(self.batch)
            self._state, metrics = self._compiled(self._state, self._placed, batch)
            if pending is not None:
                self._parallel.fetch(pending)
            pending = metrics
        values = {name: float(value) for name, value in self._parallel.fetch(pending).items()}
        jax.block_until_ready(self._state)
        if not np.isfinite(values["loss"]):
            raise FloatingPointError("the loss is not finite, so the measured steps do not train")
        return values

    def trained(self) -> Any:
        """The current parameters, on the host."""
        return self._parallel.fetch(self._state.params)


def compile_all(variants: list[StepVariant], threads: int) -> None:
    """Compiles variants in parallel threads; `failed` of a variant gives the reason if it does not compile."""

    def attempt(variant: StepVariant) -> None:
        if not variant.failed:
            variant.failed, _ = attempted(variant.compile)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(attempt, variants))


def attempted(fn: Callable[..., Any], *arguments: Any) -> tuple[str, Any]:
    """Calls a function and returns ("", its result), or (the first line of its exception, None)."""
    try:
        return "", fn(*arguments)
    except Exception as problem:  # any kind: the compiler refuses, memory is too small, an option is unknown
        return f"{type(problem).__name__}: {(str(problem).strip() or 'no reason given').splitlines()[0][:300]}", None


class ProfiledOperation(NamedTuple):
    """An operation of a profile.

    Attributes:
        name: name of the kernel, or of the compiled operation.
        source: its path in the model, from the program's metadata; "" if unknown.
        seconds: device time per step.
        calls: calls per step.
    """

    name: str
    source: str
    seconds: float
    calls: float


def profile(variant: StepVariant, steps: int) -> list[ProfiledOperation]:
    """The operations of a step, by the time that the device spent on them, the most expensive first."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            variant.run(steps)
        (path,) = Path(folder).rglob("*.xplane.pb")
        totals: dict[tuple[str, str], list[float]] = {}
        for name, operation, seconds in events(jax.profiler.ProfileData.from_file(str(path))):
            total = totals.setdefault((name, operation), [0.0, 0])
            total[0] += seconds
            total[1] += 1
    sources = operation_names(variant.text())
    profiled = [
        ProfiledOperation(
            name,
            sources.get(operation) or sources.get(re.sub(r"_(\d+)$", r".\1", name), ""),
            total[0] / steps,
            total[1] / steps,
        )
        for (name, operation), total in totals.items()
    ]
    return sorted(profiled, key=lambda operation: -operation.seconds)


def events(data: Any) -> Iterator[tuple[str, str, float]]:
    """(kernel, compiled operation, seconds) of each event of a compiled program; on the GPUs if the machine has any."""
    planes = list(data.planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:GPU")]
    for plane in devices or planes:
        for line in plane.lines:
            if devices and not line.name.startswith("Stream"):
                continue
            for event in line.events:
                operation = next((str(value) for name, value in event.stats if name == "hlo_op"), "")
                if operation or devices:
                    yield event.name, operation, event.duration_ns / 1e9


def operation_names(text: str) -> dict[str, str]:
    """Paths in the model of a compiled program's operations, by name of the operation."""
    named = re.findall(r'^\s*(?:ROOT )?%?([\w.-]+) = .*metadata=\{[^}]*op_name="([^"]+)"', text, re.MULTILINE)
    return {name: re.sub(r"jit\(\w+\)/|shard_map/|rematted_computation/", "", source) for name, source in named}


def serve_variants(parent: Parent) -> None:
    """Answers the parent's messages until the last."""
    receive, reply = parent.receive, parent.reply
    order = receive()
    host_memory.keep_freed()
    variants = [StepVariant(variant_order) for variant_order in order["variants"]]
    if order["share"]:
        first = variants[0]
        write_start(order["share"], params=first.params, frozen=first.frozen, batch=first.batch)
    reply({"device": jax.devices()[0].device_kind, "devices": jax.device_count(), "memory": device_memory()})
    for variant in variants:
        variant.failed, _ = attempted(variant.trace)
    while (command := receive()) is not None:
        if "compile" in command:
            compile_all(variants, order["threads"])
            if order["share"] and not variants[0].failed:
                followed = [variants[0].run(1) for _ in range(order["follow_steps"])]
                variants[0].facts["first_steps"] = [
                    {name: values[name] for name in ("loss", "gradient_norm")} for values in followed
                ]
                write_followed(order["share"], variants[0].trained())
            reply({variant.name: variant.facts | {"failed": variant.failed} for variant in variants})
            continue
        variant = variants[command["measure" if "measure" in command else "profile"]]
        if "profile" in command:
            failed, operations = attempted(profile, variant, command["count"])
            reply({"failed": failed, "operations": [operation._asdict() for operation in operations or ()]})
        else:
            start = time.perf_counter()
            failed, _ = attempted(variant.run, command["count"])
            reply({"failed": failed, "seconds": time.perf_counter() - start, "device_peak_bytes": device_peak()})


def device_peak() -> int | None:
    """Peak of the first device's bytes in use; None if it does not report it."""
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def device_memory() -> int | None:
    """Bytes of the first device that this process may use; None if it does not report it."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


if __name__ == "__main__":
    work_for_parent(serve_variants)
