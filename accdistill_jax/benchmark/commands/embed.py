"""`benchmark embed`: embeddings per second, latency on a single core, signals and cold start, probes and retrieval on many embeddings."""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accdistill_jax
from accdistill_jax.benchmark import contest
from accdistill_jax.benchmark.contest import Contender, spread
from accdistill_jax.config.convert import changed
from accdistill_jax.config.load import add_config, load_config
from accdistill_jax.config.tree import plain
from accdistill_jax.errors import UserError

MODULE = "accdistill_jax.benchmark.contenders"
LARGE = "distill:paper-literal"
EVALUATIONS = {
    "probes": "4 linear probes: fit and predict, 17 strengths",
    "probe target": "a target of the report: choice of strength, fit, predictions, {draws} bootstrap draws",
    "retrieval": "ranks, both directions, {queries} queries",
}
PARTS = ("throughput", "latency", "signals", "cold start", *EVALUATIONS)
RATES_HZ = (50, 64)  # 64 Hz needs no resampling
SIGNAL_MINUTES = 256
COLD_START = """\
import sys
import numpy as np
import accdistill_jax as ad

accel = np.random.default_rng(0).normal(0.0, 0.002, (120 * 50, 3)) + [0.0, 0.6, 0.8]
assert ad.load(sys.argv[1]).embed(accel, rate_hz=50).shape[0] == 2
"""
LONG_S = 20.0  # an evaluation that takes longer is measured once
PATIENCE_S = 4 * 3600.0  # longest time of an evaluation
ONE_CORE = {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false", "JAX_PLATFORMS": "cpu"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments besides those of every benchmark."""
    add_config(parser, "distill:mean")
    parser.add_argument(
        "--large", default=LARGE, metavar="CONFIG[:PRESET]", help=f"config of a second student (default {LARGE})"
    )
    parser.add_argument(
        "--batches",
        type=int,
        nargs="+",
        default=(1, 8, 32, 128),
        metavar="N",
        help="segments per batch (default 1 8 32 128)",
    )
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="compute dtype (default float32)"
    )
    parser.add_argument(
        "--embeddings",
        type=int,
        default=100_000,
        metavar="N",
        help="embeddings for probes and retrieval (default 100000)",
    )
    parser.add_argument(
        "--queries",
        type=int,
        default=20_000,
        metavar="N",
        help="queries of retrieval, drawn at random and ranked among all embeddings, in both directions (default 20000)",
    )
    parser.add_argument(
        "--draws", type=int, default=2000, metavar="N", help="bootstrap draws of a probe (default 2000)"
    )
    parser.add_argument(
        "--encoder",
        default="synthetic-small",
        metavar="RUN",
        help="student for signals and cold start: a run or a shipped name (default synthetic-small)",
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure (default: all)")
    parser.add_argument("--round-s", type=float, default=1.0, metavar="S", help="seconds per measurement (default 1)")
    parser.set_defaults(rounds=5)


def measure(arguments: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Measures and returns a record of plain values."""
    record: dict[str, Any] = {"dtype": arguments.dtype, "rounds": arguments.rounds, "embeddings": arguments.embeddings}
    students = {}
    for name, overrides in dict([(arguments.large, []), (arguments.config, arguments.overrides)]).items():
        students[name] = plain(changed(load_config(name, overrides), {"runtime.compute_dtype": arguments.dtype}))
    rounds, round_s = arguments.rounds, arguments.round_s

    def encoders(batches: tuple[int, ...], **options: Any) -> list[dict[str, Any]]:
        measured_students = []
        for name, config in students.items():
            contenders = [
                Contender(
                    str(batch),
                    f"{MODULE}.inference",
                    {"config": config, "batch": batch, "latency": bool(options)},
                    **options,
                )
                for batch in batches
            ]
            measured = contest.compete(contenders, rounds=rounds, round_s=round_s)
            for batch, measurement in zip(batches, measured.values(), strict=True):
                measured_students.append({"config": name, "batch": batch} | measurement._asdict())
            say(f"{name}: embedded")
        return measured_students

    if "throughput" in arguments.only:
        record["throughput"] = encoders(tuple(arguments.batches))
    if "latency" in arguments.only:
        record["latency"] = encoders((1,), environment=ONE_CORE, cores=sorted(os.sched_getaffinity(0))[-1:])
    if "signals" in arguments.only:
        say(f"signals by {arguments.encoder}")
        contenders = [
            Contender(
                f"{rate_hz} Hz",
                f"{MODULE}.signals",
                {"encoder": arguments.encoder, "minutes": SIGNAL_MINUTES, "rate_hz": rate_hz},
            )
            for rate_hz in RATES_HZ
        ]
        measured = contest.compete(contenders, rounds=rounds, round_s=round_s)
        record["signals"] = {name: result._asdict() for name, result in measured.items()}
    if "cold start" in arguments.only:
        say(f"cold start of {arguments.encoder}")
        record["cold start"] = cold_starts(arguments.encoder, rounds)
    record["encoder"] = arguments.encoder
    amounts = {name: getattr(arguments, name) for name in ("embeddings", "queries", "draws")}
    record |= amounts
    for task in EVALUATIONS:
        if task in arguments.only:
            say(f"{task} on {arguments.embeddings} embeddings")
            contender = Contender(task, f"{MODULE}.searching", amounts | {"task": task}, patience_s=PATIENCE_S)
            measured = contest.compete([contender], rounds=min(3, rounds), round_s=round_s, enough_s=LONG_S)
            record[task] = measured[task]._asdict()
    return record


def cold_starts(encoder: str, rounds: int) -> list[float]:
    """Seconds from the start of Python to two embedded minutes, of `rounds` processes; a first one, which fills caches, is left out.

    Raises:
        UserError: the program failed.
    """
    code = Path(accdistill_jax.__file__).parents[1]
    path = os.pathsep.join([str(code), *filter(None, [os.environ.get("PYTHONPATH")])])
    seconds = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", COLD_START, encoder],
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        seconds.append(time.perf_counter() - begin)
        if done.returncode:
            raise UserError(f"the cold start failed: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")
    return seconds[1:]


def report(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    from accdistill_jax.benchmark.model.tables import table

    out = [f"# Inference, {record['dtype']}\n"]
    if "throughput" in record:
        rows = []
        for measured in record["throughput"]:
            rate = spread([measured["batch"] / seconds for seconds in measured["seconds"]])
            flops = measured["facts"]["flops"] * rate.median / 1e9
            rows.append(
                [
                    measured["config"],
                    str(measured["batch"]),
                    rate.text(),
                    f"{flops:.0f}",
                    f"{measured['peak_bytes'] / 1e9:.2f}",
                ]
            )
        header = ("student of", "batch", "segments/s", "GFLOP/s", "peak memory, GB")
        out.append("\n## Embedding, all cores: int16 in, embedding out\n\n" + table(header, rows))
    if "latency" in record:
        rows = []
        for measured in record["latency"]:
            facts = measured["facts"]
            milliseconds = [f"{1e3 * facts['latency_s'][q]:.2f}" for q in ("p50", "p95")]
            size = [f"{facts['parameters'] / 1e6:.2f}", f"{facts['flops'] / 1e6:.0f}"]
            rows.append([measured["config"], *size, *milliseconds, f"{measured['peak_bytes'] / 1e9:.2f}"])
        header = ("student of", "parameters, millions", "MFLOP", "p50, ms", "p95, ms", "peak memory, GB")
        out.append("\n## Latency of a segment on a single core\n\n" + table(header, rows))
    if "signals" in record:
        rows = [
            [name, spread([SIGNAL_MINUTES / seconds for seconds in measured["seconds"]]).text()]
            for name, measured in record["signals"].items()
        ]
        heading = f"\n## `encoder.embed` by {record['encoder']}, {SIGNAL_MINUTES} minutes at once\n\n"
        out.append(heading + table(("rate of the signal", "minutes/s"), rows))
    if "cold start" in record:
        seconds = spread(record["cold start"]).text()
        heading = f"\n## Cold start of {record['encoder']}: from the start of Python to two embedded minutes\n\n"
        out.append(heading + table(("", "seconds"), [["new process", seconds]]))
    rows = []
    for task, words in EVALUATIONS.items():
        if task in record:
            measured = record[task]
            facts = measured["facts"]
            words = words.format(draws=record["draws"], queries=facts.get("queries"))
            sizes = [facts["input_bytes"], facts["before_bytes"], measured["peak_bytes"]]
            rows.append([words, spread(measured["seconds"]).text(), *(f"{size / 1e9:.2f}" for size in sizes)])
    if rows:
        header = (
            f"{record['embeddings']} embeddings",
            "seconds",
            "their size, GB",
            "memory before, GB",
            "peak memory, GB",
        )
        out.append("\n## Evaluation\n\n" + table(header, rows) + _extrapolated(record))
    return "".join(out)


def _extrapolated(record: dict[str, Any]) -> str:
    """Estimated time to rank all queries, if only a sample was ranked."""
    retrieval, count = record.get("retrieval"), record["embeddings"]
    if retrieval is None or retrieval["facts"]["queries"] >= count:
        return ""
    queries, seconds = retrieval["facts"]["queries"], spread(retrieval["seconds"]).median
    return (
        f"\nRetrieval ranked a random sample of {queries} queries among all {count} candidates, in each direction. All {count} queries "
        f"would take about {seconds * count / queries / 2 / 60:.0f} minutes (extrapolated, not measured); their scores serve both "
        "directions at once.\n"
    )
