"""Weak scaling on the cores of this machine: the real training step, a fixed batch per device, one core per device.

Workers are processes of their own, pinned to their cores, with the step compiled and warm; they wait without work while
others are measured. Every repeat goes through all arrangements in turn, so that a drift of the machine meets them alike:

- one device alone, on each core by itself; the mean over the cores is what 100 % means;
- n devices at once that know nothing of each other: what the machine's caches, memory and clocks leave of n cores;
- one process with n devices on n cores;
- n processes with one device each, connected by gloo over loopback.

Each device computes with one thread, so that the lone device cannot use the other cores.
"""

import contextlib
import json
import os
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from accdistill_jax.errors import UserError

PATIENCE_S = 600.0  # for a worker's answer, compilation included
WARM_STEPS = 3


class Worker:
    """A process that runs the training step on some cores."""

    def __init__(self, order: dict[str, Any], *, cores: Sequence[int], devices: int, cluster: dict | None = None):
        """Starts the process.

        Args:
            order: config (nested), stage, batch (segments per device).
            cores: it may run on.
            devices: it has.
            cluster: address, processes and rank, or None.
        """
        order = order | {"cores": list(cores), "devices": devices, "cluster": cluster}
        flags = f"--xla_cpu_multi_thread_eigen=false --xla_force_host_platform_device_count={devices}"
        # without jax's filter the last line of a traceback is the error
        environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "JAX_TRACEBACK_FILTERING": "off"}
        self._errors = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "accdistill_jax.scaling.measure"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            bufsize=1,
            env=environment,
        )
        self.send(json.dumps(order))

    def send(self, line: str) -> None:
        """Hands over one line without waiting."""
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure("ended") from None

    def answer(self) -> str:
        """The next line, waiting up to `PATIENCE_S`.

        Raises:
            UserError: none came; with the last line of what the worker said.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(PATIENCE_S):
                raise self._failure(f"did not answer within {PATIENCE_S:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise self._failure("ended")
        return line.strip()

    def _failure(self, what: str) -> UserError:
        self.close(patience_s=1.0)
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors if line.strip()]
        return UserError(f"a measuring process {what}: {lines[-1] if lines else 'it said nothing'}")

    def finish(self) -> None:
        """Tells it that nothing more is to be measured."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def close(self, *, patience_s: float) -> None:
        """Waits for it to end, and ends it when it does not."""
        try:
            self._process.wait(timeout=patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def run(
    config_name: str,
    config: Any,
    *,
    stage: str,
    devices: Sequence[int],
    processes: Sequence[int],
    batch: int,
    steps: int,
    repeats: int,
) -> dict[str, Any]:
    """Measures all arrangements.

    Args:
        config_name, config: what is trained, and its name for the report.
        stage: "student" or "teacher".
        devices: how many in one process, each an arrangement.
        processes: how many of one device, each an arrangement.
        batch: segments per device.
        steps: per repeat.
        repeats: of every arrangement.

    Returns:
        The settings, and per arrangement its devices and its segments per second in every repeat.

    Raises:
        UserError: more devices than cores, or a process that failed.
    """
    cores = sorted(os.sched_getaffinity(0))
    most = max(*devices, *processes)
    if most > len(cores):
        raise UserError(f"{most} devices need {most} cores, one each; this machine offers {len(cores)}")
    order = {"config": json.loads(config.to_json_best_effort()), "stage": stage, "batch": batch}
    workers: list[Worker] = []

    def start(**arguments: Any) -> Worker:
        workers.append(Worker(order, **arguments))
        return workers[-1]

    try:
        single = [start(cores=[core], devices=1) for core in cores[:most]]
        arrangements: dict[str, tuple[int, list[list[Worker]]]] = {"1 device alone": (1, [[one] for one in single])}
        for count in sorted({*devices, *processes} - {1}):
            arrangements[f"{count} unconnected"] = (count, [single[:count]])
            if count in devices:
                joined = start(cores=cores[:count], devices=count)
                arrangements[f"1 process, {count} devices"] = (count, [[joined]])
            if count in processes:
                address = f"127.0.0.1:{_free_port()}"
                joined = [
                    start(cores=[cores[rank]], devices=1, cluster={"address": address, "processes": count, "rank": rank})
                    for rank in range(count)
                ]
                arrangements[f"{count} processes, 1 device each"] = (count, [joined])
        for worker in workers:
            worker.answer()
        rates: dict[str, list[float]] = {name: [] for name in arrangements}
        for repeat in range(repeats):
            names = list(arrangements)
            for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
                count, groups = arrangements[name]
                segments = batch * count * steps  # of a group of workers
                found = [_measure(group, segments=segments // len(group), steps=steps) for group in groups]
                rates[name].append(statistics.mean(found))
        for worker in workers:
            worker.finish()
    finally:
        for worker in workers:
            worker.close(patience_s=10.0 if sys.exception() is None else 0.0)
    return {
        "config": config_name,
        "stage": stage,
        "batch_per_device": batch,
        "steps": steps,
        "repeats": repeats,
        "arrangements": [
            {"name": name, "devices": arrangements[name][0], "segments_per_s": found} for name, found in rates.items()
        ],
    }


def _measure(group: list[Worker], *, segments: int, steps: int) -> float:
    """Segments per second of workers at once, each of which works through `segments` in `steps`."""
    for worker in group:
        worker.send(str(steps))
    return sum(segments / float(worker.answer()) for worker in group)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def report(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    from accdistill_jax.scaling.tables import table

    rates = {one["name"]: one["segments_per_s"] for one in result["arrangements"]}
    alone = rates["1 device alone"]
    rows = []
    for one in result["arrangements"]:
        name, count = one["name"], one["devices"]
        unconnected = rates.get(f"{count} unconnected", alone)
        efficiency = [rate / (count * base) for rate, base in zip(rates[name], alone, strict=True)]
        against = [rate / base for rate, base in zip(rates[name], unconnected, strict=True)]
        rows.append([name, _spread(rates[name], "{:.1f}"), _spread(efficiency, "{:.1%}"), _spread(against, "{:.1%}")])
    title = (
        f"{result['config']}, {result['stage']}: {result['batch_per_device']} segments per device, {result['steps']} steps, "
        f"{result['repeats']} repeats in turn; median (smallest to largest)\n\n"
    )
    return title + table(("arrangement", "segments/s", "efficiency", "against as many unconnected"), rows)


def _spread(values: Sequence[float], form: str) -> str:
    median, low, high = (form.format(f(values)) for f in (statistics.median, min, max))
    return f"{median} ({low} to {high})"


def serve() -> None:
    """A worker: reads its order and then numbers of steps from standard input, answers with seconds."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # gloo prints to standard output
    order = json.loads(sys.stdin.readline())
    os.sched_setaffinity(0, order["cores"])  # before jax counts the cores
    import jax
    import ml_collections
    import numpy as np

    cluster = order["cluster"]
    if cluster:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(
            cluster["address"], cluster["processes"], cluster["rank"], cluster_detection_method="deactivate"
        )
    from accdistill_jax.parallel import Parallel
    from accdistill_jax.scaling import program
    from accdistill_jax.train import TrainState

    work = program.describe(ml_collections.FrozenConfigDict(order["config"]), order["stage"])
    parallel = Parallel(work.config.runtime.mapping)
    built = program.build(work, parallel)
    rng = np.random.default_rng(0)

    def fill(shape: Any) -> np.ndarray:
        return (0.05 * rng.normal(size=shape.shape)).astype(shape.dtype)

    rows = order["batch"] * parallel.num_local
    batch = {
        name: rng.integers(-(2**15), 2**15, shape.shape).astype(np.int16)
        if shape.dtype == np.int16
        else np.ones(shape.shape, shape.dtype)
        for name, shape in program.batch_shapes(work.config, rows).items()
    }
    batch["position"] = np.arange(rows, dtype=np.int32) + rows * parallel.process
    if cluster:
        batch["stop"] = np.zeros(rows, np.int32)  # as the training loop has it
    one = {name: value[:1] for name, value in batch.items()}
    params = jax.device_get(jax.jit(work.objective.init)(jax.random.key(0), one))
    state = built.start(params, parallel)
    frozen = jax.tree.map(fill, work.frozen)
    if frozen:
        frozen["std"] = np.ones_like(frozen["std"])
    frozen = parallel.replicate(frozen)

    def run_steps(state: TrainState, steps: int) -> TrainState:
        """As the training loop does it: a step's metrics are fetched after the next step is dispatched."""
        pending = None
        for _ in range(steps):
            state, metrics = built.step(state, frozen, parallel.place(batch))
            if pending is not None:
                parallel.fetch(pending)
            pending = metrics
        if not np.isfinite(parallel.fetch(pending)["loss"]):
            raise FloatingPointError("the loss is not finite: what was measured is not training")
        return jax.block_until_ready(state)

    state = run_steps(state, WARM_STEPS)
    print("ready", file=replies)
    for line in sys.stdin:
        start = time.perf_counter()
        state = run_steps(state, int(line))
        print(time.perf_counter() - start, file=replies)
    if cluster:
        jax.distributed.shutdown()


if __name__ == "__main__":
    serve()
