"""`benchmark weak-scaling`: the real training step on this machine's cores, with a fixed batch per device and a core per device.

Workers are separate processes, pinned to their cores, with the step compiled and warm; they idle while others are measured.
Every round measures all arrangements in turn, so that a drift of the machine's speed affects them alike:

- a single device alone, on each core in turn; the mean over the cores is 100 %;
- n unconnected devices at the same time: the share of n cores that caches, memory and clocks allow;
- a single process with n devices on n cores;
- n processes with a device each, connected by gloo over loopback.

Each device computes with a single thread, so that a device alone cannot use the other cores.
"""

import argparse
import os
import socket
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from accdistill_jax.benchmark.arguments import integers, positive
from accdistill_jax.benchmark.contest import Worker
from accdistill_jax.config.convert import parse_config
from accdistill_jax.config.load import add_config, load_config
from accdistill_jax.config.tree import plain
from accdistill_jax.errors import UserError
from accdistill_jax.runtime.child import Parent, work_for_parent

WARM_STEPS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments besides those of every benchmark."""
    add_config(parser, "distill:smoke-mean")
    parser.add_argument(
        "--stage", choices=("student", "teacher"), default="student", help="stage that is trained (default student)"
    )
    parser.add_argument(
        "--devices",
        type=integers,
        default=[1, 2],
        metavar="N,...",
        help="devices of a single process, a core each (default 1,2)",
    )
    parser.add_argument(
        "--processes",
        type=integers,
        default=[1, 2],
        metavar="N,...",
        help="processes with a single device, pinned to a core each (default 1,2)",
    )
    parser.add_argument(
        "--batch-per-device", type=positive, default=16, metavar="N", help="segments per device (default 16)"
    )
    parser.add_argument("--steps", type=positive, default=20, metavar="N", help="steps per round (default 20)")
    parser.set_defaults(rounds=5)


def measure(arguments: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Measures all arrangements.

    Returns:
        The settings, and for each arrangement its number of devices and its segments per second in every round.

    Raises:
        UserError: more devices than cores, or a process that failed.
    """
    config = load_config(arguments.config, arguments.overrides)
    devices, processes, batch = arguments.devices, arguments.processes, arguments.batch_per_device
    cores = sorted(os.sched_getaffinity(0))
    most = max(*devices, *processes)
    if most > len(cores):
        raise UserError(
            f"{most} devices need {most} cores, but this machine has {len(cores)}; lower --devices and --processes"
        )
    order = {"config": plain(config), "stage": arguments.stage, "batch": batch}
    workers: list[Worker] = []

    def start(*, cores: Sequence[int], devices: int, cluster: dict | None = None) -> Worker:
        """Starts a process that runs the training step on `devices` devices, as a member of `cluster` if given."""
        flags = f"--xla_cpu_multi_thread_eigen=false --xla_force_host_platform_device_count={devices}"
        environment = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        worker = Worker(__name__, order | {"cluster": cluster}, environment=environment, cores=cores)
        workers.append(worker)
        return worker

    try:
        single = [start(cores=[core], devices=1) for core in cores[:most]]
        arrangements: dict[str, tuple[int, list[list[Worker]]]] = {
            "1 device alone": (1, [[worker] for worker in single])
        }
        for count in sorted({*devices, *processes} - {1}):
            arrangements[f"{count} unconnected"] = (count, [single[:count]])
            if count in devices:
                joint = start(cores=cores[:count], devices=count)
                arrangements[f"1 process, {count} devices"] = (count, [[joint]])
            if count in processes:
                address = f"127.0.0.1:{_free_port()}"
                connected = [
                    start(
                        cores=[cores[rank]], devices=1, cluster={"address": address, "processes": count, "rank": rank}
                    )
                    for rank in range(count)
                ]
                arrangements[f"{count} processes, 1 device each"] = (count, [connected])
        for worker in workers:
            worker.answer()
        rates: dict[str, list[float]] = {name: [] for name in arrangements}
        for number in range(arguments.rounds):
            names = list(arrangements)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                count, groups = arrangements[name]
                segments = batch * count * arguments.steps  # of a group of workers
                measured = [_measure(group, segments=segments // len(group), steps=arguments.steps) for group in groups]
                rates[name].append(statistics.mean(measured))
        for worker in workers:
            worker.finish()
    finally:
        for worker in workers:
            worker.close(patience_s=10.0 if sys.exception() is None else 0.0)
    return {
        "config": arguments.config,
        "stage": arguments.stage,
        "batch_per_device": batch,
        "steps": arguments.steps,
        "rounds": arguments.rounds,
        "arrangements": [
            {"name": name, "devices": arrangements[name][0], "segments_per_s": rounds} for name, rounds in rates.items()
        ],
    }


def _measure(group: list[Worker], *, segments: int, steps: int) -> float:
    """Segments per second of workers that run at the same time; each processes `segments` in `steps`."""
    for worker in group:
        worker.send(steps)
    return sum(segments / worker.answer() for worker in group)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def report(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    from accdistill_jax.benchmark.model.tables import table

    rates = {arrangement["name"]: arrangement["segments_per_s"] for arrangement in record["arrangements"]}
    alone = rates["1 device alone"]
    rows = []
    for arrangement in record["arrangements"]:
        name, count = arrangement["name"], arrangement["devices"]
        unconnected = rates.get(f"{count} unconnected", alone)
        efficiency = [rate / (count * base) for rate, base in zip(rates[name], alone, strict=True)]
        against = [rate / base for rate, base in zip(rates[name], unconnected, strict=True)]
        rows.append([name, _spread(rates[name], "{:.1f}"), _spread(efficiency, "{:.1%}"), _spread(against, "{:.1%}")])
    title = (
        f"{record['config']}, {record['stage']}: {record['batch_per_device']} segments per device, {record['steps']} steps, "
        f"{record['rounds']} rounds in turn; median (smallest to largest)\n\n"
    )
    return title + table(("arrangement", "segments/s", "efficiency", "relative to unconnected devices"), rows)


def _spread(values: Sequence[float], form: str) -> str:
    median, low, high = (form.format(f(values)) for f in (statistics.median, min, max))
    return f"{median} ({low} to {high})"


def serve_worker(parent: Parent) -> None:
    """Runs a worker: it receives its order and then numbers of steps, and answers with seconds."""
    order = parent.receive()
    os.sched_setaffinity(0, order["cores"])  # before jax counts the cores
    import jax

    cluster = order["cluster"]
    if cluster:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(
            cluster["address"], cluster["processes"], cluster["rank"], cluster_detection_method="deactivate"
        )
    from accdistill_jax.benchmark.contenders.training import Training
    from accdistill_jax.benchmark.model import program
    from accdistill_jax.runtime.parallel import Parallel

    config = parse_config(order["config"])
    training = Training(
        program.describe_work(config, order["stage"]),
        batch=order["batch"],
        parallel=Parallel(config.runtime.mapping),
        several=cluster is not None,
    )
    training.run(WARM_STEPS)
    parent.reply("ready")
    while (steps := parent.receive()) is not None:
        start = time.perf_counter()
        training.run(steps)
        parent.reply(time.perf_counter() - start)
    if cluster:
        jax.distributed.shutdown()


if __name__ == "__main__":
    work_for_parent(serve_worker)
