"""A measuring process for many forms of the training step: compiled side by side, then timed one after another as it is asked.

The parent (`benchmark/commands/gpu.py`) sends an order and then commands, one JSON object a line, and gets one line back for each:

    order                      -> device and weights are ready, for a peer in another process to begin
    {"compile": true}          -> facts of every variant: seconds to compile, memory, attention, or why it failed
    {"measure": N, "count": K} -> seconds of K steps of variant number N, or why it failed
    {"profile": N, "count": K} -> the operations of K steps by the time that the device spent on them

Tracing takes one core and compiling many: all variants are traced first, then compiled by threads.
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
    FOLLOWED,
    made_up_batch,
    made_up_params,
    made_up_teacher,
)
from accdistill_jax.benchmark.model import program
from accdistill_jax.config.convert import section
from accdistill_jax.config.schema import Config
from accdistill_jax.models import attention
from accdistill_jax.runtime import host_memory
from accdistill_jax.runtime.child import Parent, work_for_parent
from accdistill_jax.runtime.parallel import Parallel
from accdistill_jax.storage.arrays import flatten

CUDNN_ATTENTION = re.compile(r'custom_call_target="__cudnn\$fmha\w*Backward')  # one for each block that is trained


class Variant:
    """One form of the step.

    Args:
        order: "name"; "config" (plain values), "stage", "batch" (segments per device); "compiler_options" of XLA; "attention",
            a form that is forced, or "".
        share: folder for the weights that a peer starts from, or None.

    Attributes:
        name: as ordered.
        failed: why it cannot be measured; "".
        facts: of the compiled program.
    """

    def __init__(self, order: dict[str, Any]):
        self.name, self.failed, self.facts = order["name"], "", {}
        self._order = order
        config = section(Config, order["config"])
        self._parallel = Parallel(config.runtime.mapping)
        self._work = program.describe(config, order["stage"])
        self._built = program.build(self._work, self._parallel)
        self.batch = made_up_batch(self._work, order["batch"] * self._parallel.num_local)
        self.params, self.frozen = made_up_params(self._work.params, seed=2), made_up_teacher(self._work.frozen)
        self._state = self._placed = self._lowered = self._compiled = None

    def trace(self) -> None:
        """Traces the step; the state is on the device from here on."""
        self._state = self._built.start(self.params, self._parallel)
        self._placed = self._parallel.replicate(self.frozen)
        forced = self._order["attention"]
        with attention.forced(forced) if forced else contextlib.nullcontext():
            self._lowered = self._built.step.lower(self._state, self._placed, self._parallel.place(self.batch))

    def compile(self) -> None:
        """Compiles the traced step and notes what the compiler says of it."""
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
        """The optimised program."""
        return self._compiled.as_text()

    def run(self, steps: int) -> dict[str, float]:
        """Runs steps as the training loop does, metrics fetched one step later; returns the last step's.

        Raises:
            FloatingPointError: a loss that is not finite.
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
            raise FloatingPointError("the loss is not finite: what was measured is not training")
        return values

    def trained(self) -> dict[str, np.ndarray]:
        """The parameters now, on the host, by path."""
        return flatten(self._parallel.fetch(self._state.params))


def leave_start(variant: Variant, share: str) -> None:
    """Writes the weights and the batch that a peer starts from."""
    arrays = {f"params/{name}": value for name, value in flatten(variant.params).items()}
    arrays |= {f"frozen/{name}": value for name, value in flatten(variant.frozen).items()}
    arrays |= {f"batch/{name}": value for name, value in variant.batch.items()}
    np.savez(f"{share}/start.npz", **arrays)


def compile_all(variants: list[Variant], threads: int) -> None:
    """Compiles by threads; a variant that cannot be compiled says why in `failed`."""

    def attempt(variant: Variant) -> None:
        if not variant.failed:
            variant.failed, _ = attempted(variant.compile)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(attempt, variants))


def attempted(fn: Callable[..., Any], *arguments: Any) -> tuple[str, Any]:
    """Calls a function: (the first line of what it raised, None), or ("", its result)."""
    try:
        return "", fn(*arguments)
    except Exception as problem:  # of whatever kind: a compiler's refusal, no memory, an option that it does not know
        return f"{type(problem).__name__}: {(str(problem).strip() or 'no reason given').splitlines()[0][:300]}", None


class Operation(NamedTuple):
    """An operation of a profile.

    Attributes:
        name: the kernel's, or the compiled operation's.
        source: what it was in the model, from the program's metadata; "" where it has none.
        seconds: of the device, a step.
        calls: a step.
    """

    name: str
    source: str
    seconds: float
    calls: float


def profile(variant: Variant, steps: int) -> list[Operation]:
    """The operations of a step by the time that the device spent on them, dearest first."""
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
    found = [
        Operation(
            name,
            sources.get(operation) or sources.get(re.sub(r"_(\d+)$", r".\1", name), ""),
            total[0] / steps,
            total[1] / steps,
        )
        for (name, operation), total in totals.items()
    ]
    return sorted(found, key=lambda operation: -operation.seconds)


def events(data: Any) -> Iterator[tuple[str, str, float]]:
    """(kernel, compiled operation, seconds) of each event that belongs to a compiled program, of the devices where there are any."""
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
    """Names in the model of a compiled program's operations, by the operations' own names."""
    found = re.findall(r'^\s*(?:ROOT )?%?([\w.-]+) = .*metadata=\{[^}]*op_name="([^"]+)"', text, re.MULTILINE)
    return {name: re.sub(r"jit\(\w+\)/|shard_map/|rematted_computation/", "", source) for name, source in found}


def main(parent: Parent) -> None:
    """Answers the parent's messages until there are no more."""
    receive, reply = parent.receive, parent.reply
    order = receive()
    host_memory.keep_freed()
    variants = [Variant(one) for one in order["variants"]]
    if order["share"]:
        leave_start(variants[0], order["share"])
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
                np.savez(f"{order['share']}/{FOLLOWED}", **variants[0].trained())
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
    """Most bytes of the first device in use so far; None where it does not tell."""
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def device_memory() -> int | None:
    """Bytes that this process may have of the first device; None where it does not tell."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


if __name__ == "__main__":
    work_for_parent(main)
