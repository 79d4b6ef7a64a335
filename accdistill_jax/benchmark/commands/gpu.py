"""`benchmark gpu`: everything worth knowing of a GPU in minutes, the most valuable first, part by part.

A GPU is often at hand for minutes only. So each part's numbers are kept in the folder as soon as they are there, the same command
goes on with the parts that are missing, and no part is begun that the time limit would cut off. `--tiny` goes through all of it
with the smallest models, on any device: a rehearsal, whose figures mean nothing.
"""

import argparse
import contextlib
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from accdistill_jax.benchmark import contest
from accdistill_jax.benchmark.commands.gpu_report import report
from accdistill_jax.benchmark.commands.step import (
    FOLLOW_STEPS,
    FOLLOWED_WITH,
    accelerated,
    without_augmentation,
)
from accdistill_jax.benchmark.contest import Contender, Worker
from accdistill_jax.config.load import add_config, load_config
from accdistill_jax.errors import UserError
from accdistill_jax.files import write_atomically
from accdistill_jax.user_paths import path_argument

__all__ = ["PARTS", "add_arguments", "measure", "report"]

MODULE = "accdistill_jax.benchmark.contenders"
RESULTS = "results.json"
SMALL = "configs/distill.py"
PROFILED_STEPS, DEAREST = 3, 10


class Sizes(NamedTuple):
    """How much is measured.

    Attributes:
        batches: segments per device of the contest; the first is the one whose steps are compared with PyTorch's.
        compiled: those that PyTorch is compiled for, too.
        variant_batch, large_batch: of the variants, and of those that are about memory.
        small_batches: of the default's models.
        rounds, round_s: measurements of each, and seconds of one.
        shrink: overrides of every encoder's sizes, by key of its `transformer`.
        steps, participants: of the training, and of its synthetic data.
        training_batch: of the training.
    """

    batches: tuple[int, ...]
    compiled: tuple[int, ...]
    variant_batch: int
    large_batch: int
    small_batches: tuple[int, ...]
    rounds: int
    round_s: float
    shrink: Mapping[str, int]
    steps: int
    participants: int
    training_batch: int


FULL = Sizes((256, 1024, 4096), (1024,), 1024, 8192, (128, 1024), 5, 0.5, {}, 300, 400, 512)
TINY_MODEL = {"patch": 240, "width": 16, "depth": 1, "heads": 4, "mlp": 32}
TINY = Sizes((4, 8), (), 4, 16, (4,), 2, 0.02, TINY_MODEL, 4, 12, 16)
FORMS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "augmented": {"augmented": True},
    "attention as in textbooks": {"attention": "as in textbooks"},
    "heads of half the size": {"heads_factor": 2},
    "float32": {"config": {"runtime.compute_dtype": "float32"}},
    "tokens between blocks in float32": {
        "config": {f"{who}.encoder.transformer.residual": "float32" for who in ("teacher", "student")}
    },
    "products by Triton where it finds them faster": {"options": {"xla_gpu_enable_triton_gemm": True}},
    "no command buffers": {"options": {"xla_gpu_enable_command_buffer": ""}},
    "blocks rematerialised": {"config": {"runtime.rematerialise": "blocks"}},
    "half of the tokens dropped": {"config": {"student.drop_fraction": 0.5}},
    "teacher's views cached": {"config": {"teacher.cached_views": 2}},
    "large batch, blocks rematerialised": {"large": True, "config": {"runtime.rematerialise": "blocks"}},
    "large batch in 8 micro-batches": {"large": True, "config": {"student.train.micro_batches": 8}},
}


class Context(NamedTuple):
    """What every part is given.

    Attributes:
        config: plain `--config` argument, and the overrides.
        sizes: how much is measured.
        folder: for files that need not be kept.
        remaining: seconds that are left of the limit.
        say: told of progress, a line each.
    """

    config: str
    overrides: tuple[str, ...]
    sizes: Sizes
    folder: Path
    remaining: Callable[[], float]
    say: Callable[[str], None]

    def plain(self, settings: Mapping[str, Any], *, config: str | None = None, augmented: bool = False) -> dict[str, Any]:
        """A config of plain values with settings by flat key; the main one, in the rehearsal's sizes, unless another is named."""
        shrink = {} if config else {
            f"{who}.encoder.transformer.{key}": value
            for who in ("teacher", "student")
            for key, value in self.sizes.shrink.items()
        }
        overrides = self.overrides if config is None else ()
        words = [f"--config.{key}={value!r}" for key, value in (shrink | dict(settings)).items()]
        loaded = load_config(config or self.config, [*overrides, *words])
        plain = json.loads(loaded.to_json_best_effort()) if augmented else without_augmentation(loaded)
        plain["student"]["train"] |= FOLLOWED_WITH
        return plain

    def worker(self, module: str, order: Mapping[str, Any]) -> Worker:
        """A measuring process that answers before the time is up."""
        return Worker(f"{MODULE}.{module}", order, patience_s=max(self.remaining(), 1.0))


class Part(NamedTuple):
    """A part of the measurements.

    Attributes:
        measure: gives its record.
        needs_s: about how long it takes on a GPU; it is not begun with less left.
        text: for --help.
    """

    measure: Callable[[Context], dict[str, Any]]
    needs_s: float
    text: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments besides those of every benchmark."""
    add_config(parser, "configs/distill.py:paper")
    parser.add_argument(
        "--out", type=path_argument, required=True, metavar="DIR",
        help=f"for {RESULTS} and report.md; the same command goes on there with the parts that are missing",
    )  # fmt: skip
    names = "; ".join(f"{name}: {part.text}" for name, part in PARTS.items())
    parser.add_argument("--only", nargs="+", choices=PARTS, default=tuple(PARTS), metavar="PART", help=f"which parts ({names})")
    parser.add_argument("--again", nargs="+", choices=PARTS, default=(), metavar="PART", help="parts to measure anew")
    parser.add_argument("--limit-s", type=float, default=480.0, metavar="S", help="seconds at most (default 480)")
    parser.add_argument(
        "--batches", nargs="+", type=int, metavar="N",
        help=f"of the contest, segments, multiples of the first (default {' '.join(map(str, FULL.batches))})",
    )  # fmt: skip
    parser.add_argument("--tiny", action="store_true", help="rehearse everything in small, on any device")


def measure(arguments: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Measures the parts that are missing and returns all that is known.

    Raises:
        UserError: no GPU without --tiny, or a folder of another device.
    """
    begun = time.monotonic()
    if not arguments.tiny and not accelerated():
        raise UserError("JAX sees no GPU here; --tiny rehearses the measurements on any device")
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / RESULTS
    record = json.loads(path.read_text()) if path.exists() else {"tiny": arguments.tiny, "config": arguments.config, "parts": {}}
    if record["tiny"] != arguments.tiny or record["config"] != arguments.config:
        raise UserError(f"{path} is of {record['config']}{' --tiny' * record['tiny']}: choose another --out")
    for name in arguments.again:
        record["parts"].pop(name, None)
    sizes = TINY if arguments.tiny else FULL
    if arguments.batches:
        if any(batch < 1 or batch % arguments.batches[0] for batch in arguments.batches):
            raise UserError(f"--batches {' '.join(map(str, arguments.batches))}: all must be multiples of the first")
        sizes = sizes._replace(batches=tuple(arguments.batches))
    with tempfile.TemporaryDirectory() as folder:
        context = Context(
            arguments.config,
            tuple(arguments.overrides),
            sizes,
            Path(folder),
            lambda: arguments.limit_s - (time.monotonic() - begun),
            say,
        )
        wanted = [name for name in PARTS if name in arguments.only]
        for name in wanted:
            if "failed" in record["parts"].get(name, {"failed": ""}):
                _measure_part(name, context, record)
                write_atomically(path, json.dumps(record, indent=1) + "\n")
                write_atomically(arguments.out / "report.md", report(record))
    left = [name for name in wanted if "failed" in record["parts"].get(name, {"failed": ""})]
    if left:
        record["failed"] = f"not measured: {', '.join(left)}; the same command goes on with them"
    return record


def _measure_part(name: str, context: Context, record: dict[str, Any]) -> None:
    part, begun = PARTS[name], time.monotonic()
    if not context.sizes.shrink and context.remaining() < part.needs_s:
        context.say(f"{name}: needs about {part.needs_s:.0f} s, {max(context.remaining(), 0):.0f} s are left")
        return
    context.say(f"{name}: {part.text}")
    try:
        measured = part.measure(context)
    except (UserError, OSError, ValueError, KeyError) as problem:  # the other parts are not lost with it
        measured = {"failed": f"{type(problem).__name__}: {problem}"}
        context.say(f"{name} failed: {problem}")
    took = {"seconds": time.monotonic() - begun, "date": datetime.date.today().isoformat()}
    record["parts"][name] = measured | took
    context.say(f"{name}: {took['seconds']:.0f} s")


def _machine(context: Context) -> dict[str, Any]:
    """Large matrix products in bfloat16 and one large array read and written: the two ceilings."""
    contenders = [
        Contender("peak", f"{MODULE}.matrix_peak", {"dtype": "bfloat16"}),
        Contender("memory", f"{MODULE}.memory_speed", {}),
    ]
    measured = contest.compete(contenders, rounds=context.sizes.rounds, round_s=context.sizes.round_s)
    driver = ""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    return {
        "driver": driver,
        "cores": os.cpu_count(),
        "peak_flops": contest.rates(measured["peak"], per_iteration=measured["peak"].facts["flops"]),
        "peak_shape": measured["peak"].facts["shape"],
        "memory_bandwidth": contest.rates(measured["memory"], per_iteration=measured["memory"].facts["bytes"]),
    }


def variant_order(plain: Mapping[str, Any], *, name: str, batch: int, stage: str = "student", **form: Any) -> dict[str, Any]:
    """A variant as `benchmark/contenders/variants.py` is told of it."""
    return {
        "name": name, "config": plain, "stage": stage, "batch": batch,
        "compiler_options": form.get("options", {}), "attention": form.get("attention", ""),
    }  # fmt: skip


class Entry(NamedTuple):
    """What is measured: number `number` of a process."""

    name: str
    worker: Worker
    number: int


def take_turns(entries: list[Entry], sizes: Sizes, context: Context) -> dict[str, dict[str, Any]]:
    """Measures entries in turn; every round goes through all of them, beginning with another each time.

    Returns:
        By name: "seconds" of a step, one a round, "device_peak_bytes" of its process so far, or "failed".
    """
    results: dict[str, dict[str, Any]] = {entry.name: {"seconds": []} for entry in entries}
    counts: dict[str, int] = {}

    def ask(entry: Entry, count: int) -> float | None:
        entry.worker.send(json.dumps({"measure": entry.number, "count": count}))
        answer = json.loads(entry.worker.answer())
        results[entry.name] |= {"device_peak_bytes": answer["device_peak_bytes"]}
        if answer["failed"]:
            results[entry.name]["failed"] = answer["failed"]
            context.say(f"{entry.name}: {answer['failed']}")
            return None
        return answer["seconds"] / count

    for entry in reversed(entries):  # the largest first, so that its memory is in one piece
        ask(entry, 1)
        if "failed" not in results[entry.name] and (second := ask(entry, 2)) is not None:
            counts[entry.name] = max(2, round(sizes.round_s / second))
    for number in range(sizes.rounds):
        turn = number % max(len(entries), 1)
        for entry in entries[turn:] + entries[:turn]:
            if "failed" not in results[entry.name]:
                seconds = ask(entry, counts[entry.name])
                if seconds is not None:
                    results[entry.name]["seconds"].append(seconds)
    return results


def _dearest(entry: Entry) -> dict[str, Any]:
    """The dearest operations of an entry's step, and the sum of all."""
    entry.worker.send(json.dumps({"profile": entry.number, "count": PROFILED_STEPS}))
    answer = json.loads(entry.worker.answer())
    operations = answer["operations"]
    total = sum(operation["seconds"] for operation in operations)
    return {"failed": answer["failed"], "total_s": total, "operations": operations[:DEAREST], "count": len(operations)}


def _contest(context: Context) -> dict[str, Any]:
    """The distillation step by batch size, ours and PyTorch's, same weights and batch; and what either spends its time on."""
    from accdistill_jax.benchmark.commands.gpu_parity import compare

    sizes, plain = context.sizes, context.plain({})
    first = sizes.batches[0]
    wanted = [(None, batch) for batch in sizes.batches] + [("default", batch) for batch in sizes.compiled]
    with tempfile.TemporaryDirectory(dir=context.folder) as share, contextlib.ExitStack() as stack:
        ours_order = {
            "variants": [variant_order(plain, name=f"ours, {batch}", batch=batch) for batch in sizes.batches],
            "share": share, "follow_steps": FOLLOW_STEPS, "threads": len(sizes.batches),
        }  # fmt: skip
        peer_order = {
            "share": share, "config": plain, "accelerator": accelerated(), "follow_steps": FOLLOW_STEPS,
            "entries": [{"mode": mode, "times": batch // first} for mode, batch in wanted],
        }  # fmt: skip
        ours = context.worker("variants", ours_order)
        stack.callback(ours.close, patience_s=5.0)
        device = json.loads(ours.answer())
        context.say("PyTorch prepares, while ours is traced")
        peer = context.worker("peer_variants", peer_order)
        stack.callback(peer.close, patience_s=5.0)
        told = json.loads(peer.answer())
        context.say("ours is compiled")
        ours.send(json.dumps({"compile": True}))
        facts = json.loads(ours.answer())
        entries = [Entry(name, ours, number) for number, name in enumerate(facts) if not facts[name]["failed"]]
        if "skipped" not in told:
            names = [f"PyTorch {'compiled' if mode else 'eager'}, {batch}" for mode, batch in wanted]
            failures = dict(zip(names, told["failed"], strict=True))
            entries += [Entry(name, peer, number) for number, name in enumerate(names) if not failures[name]]
        else:
            failures = {}
        times = take_turns(entries, sizes, context)
        profiled = f"{sizes.variant_batch}" if sizes.variant_batch in sizes.batches else f"{first}"
        kernels = {
            entry.name: _dearest(entry)
            for entry in entries
            if entry.name.endswith(f", {profiled}") and "failed" not in times[entry.name]
        }
        parity = {} if "skipped" in told else compare(share, facts[f"ours, {first}"], told["modes"], dtype=plain["runtime"]["compute_dtype"])
    return {
        "device": device, "facts": facts, "times": times, "kernels": kernels, "parity": parity,
        "peer": told, "failures": {name: why for name, why in failures.items() if why},
    }  # fmt: skip


def _variants(context: Context) -> dict[str, Any]:
    """Forms of the step, one thing changed at a time."""
    sizes, orders, unknown = context.sizes, [], {}
    heads = context.plain({})["student"]["encoder"]["transformer"]["heads"]
    for name, form in FORMS.items():
        settings = dict(form.get("config", {}))
        if "heads_factor" in form:
            settings |= {f"{who}.encoder.transformer.heads": heads * form["heads_factor"] for who in ("teacher", "student")}
        try:
            plain = context.plain(settings, augmented=form.get("augmented", False))
        except UserError as problem:  # a key that this version does not have
            unknown[name] = str(problem)
            continue
        batch = sizes.large_batch if form.get("large") else sizes.variant_batch
        orders.append(variant_order(plain, name=name, batch=batch, **{key: form[key] for key in ("options", "attention") if key in form}))
    return _alone(context, orders) | {"unknown": unknown}


def _small(context: Context) -> dict[str, Any]:
    """The default's models, both stages."""
    plain = context.plain({"runtime.compute_dtype": "bfloat16"}, config=SMALL)
    orders = [
        variant_order(plain, name=f"{stage}, {batch}", stage=stage, batch=batch)
        for stage in ("student", "teacher")
        for batch in context.sizes.small_batches
    ]
    return _alone(context, orders)


def _alone(context: Context, orders: list[dict[str, Any]]) -> dict[str, Any]:
    """Compiles and measures variants in one process."""
    order = {"variants": orders, "share": None, "follow_steps": 0, "threads": min(len(orders), os.cpu_count() or 1)}
    worker = context.worker("variants", order)
    try:
        worker.answer()
        worker.send(json.dumps({"compile": True}))
        facts = json.loads(worker.answer())
        context.say("compiled")
        entries = [Entry(name, worker, number) for number, name in enumerate(facts) if not facts[name]["failed"]]
        return {"facts": facts, "times": take_turns(entries, context.sizes, context)}
    finally:
        worker.close(patience_s=5.0)


def _training(context: Context) -> dict[str, Any]:
    """Trains teacher and student from a generated store by the command itself: bfloat16, and float32 at the same time beside it."""
    sizes = context.sizes
    data = context.folder / "data"
    words = {
        "data.synthetic.participants": sizes.participants,
        "data.synthetic.workers": os.cpu_count() or 1,
        "evaluation.batch_size": sizes.training_batch,
    }
    for stage in ("teacher", "student"):
        words |= {
            f"{stage}.train.duration": f"{sizes.steps} steps",
            f"{stage}.train.warmup": f"{sizes.steps // 6 or 1} steps",
            f"{stage}.train.batch_size": sizes.training_batch,
            f"{stage}.train.log_every": "1 steps",
            f"{stage}.train.validation_batches": 1,
        }
        words |= {f"{stage}.encoder.transformer.{key}": value for key, value in sizes.shrink.items()}
    begun = time.monotonic()
    _wait(_main(context, data, words | {"stages": ("data",)}), "the data", context)
    made_s, curves = time.monotonic() - begun, {}
    words |= {"stages": ("data", "teacher", "student"), "data.stores": (str(data / "data" / "synthetic"),)}
    running = {
        dtype: _main(context, context.folder / dtype, words | {"runtime.compute_dtype": dtype}) for dtype in ("bfloat16", "float32")
    }
    try:
        for dtype, process in running.items():
            _wait(process, f"training in {dtype}", context)
            curves[dtype] = {
                "seconds": time.monotonic() - begun - made_s,
                **{stage: _curve(context.folder / dtype / "metrics", stage) for stage in ("teacher", "student")},
            }
    finally:
        for process in running.values():
            process.kill()
            process.communicate()
    return {"steps": sizes.steps, "batch": sizes.training_batch, "data_s": made_s, "curves": curves}


def _main(context: Context, workdir: Path, settings: Mapping[str, Any]) -> subprocess.Popen:
    """Starts the training command; several of them share a device's memory."""
    words = [f"--config.{key}={value}" for key, value in settings.items()]
    command = [sys.executable, "-m", "accdistill_jax.main", f"--config={context.config}", f"--workdir={workdir}", *words]
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | os.environ
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)


def _wait(process: subprocess.Popen, name: str, context: Context) -> None:
    """Waits for a command to end.

    Raises:
        UserError: it failed, or the time is up.
    """
    try:
        _, errors = process.communicate(timeout=max(context.remaining(), 1.0))
    except subprocess.TimeoutExpired:
        process.kill()
        raise UserError(f"{name}: the time was up") from None
    if process.returncode:
        raise UserError(f"{name} ended with {process.returncode}: {_last_line(errors)}")


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def _curve(folder: Path, stage: str) -> dict[str, list[float]]:
    """Training loss by step, and segments per second where they were noted, from a stage's metrics."""
    rows = {kind: [json.loads(line) for line in path.read_text().splitlines()] for kind, path in (
        ("metrics", folder / f"{stage}.jsonl"), ("timing", folder / f"{stage}.timing.jsonl"),
    )}  # fmt: skip
    return {
        "loss": [row["loss"] for row in rows["metrics"] if row["kind"] == "train"],
        **{
            name: [row[name] for row in rows["timing"] if isinstance(row.get(name), float)]
            for name in ("segments_per_s", "input_wait_fraction")
        },
    }


def _command(context: Context, *words: str) -> dict[str, Any]:
    """The record of another benchmark's command."""
    path = context.folder / "record.json"
    command = [sys.executable, "-m", "accdistill_jax.benchmark", *words, f"--json={path}"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=max(context.remaining(), 1.0))
    if not path.exists():
        raise UserError(f"`benchmark {' '.join(words)}` ended with {ended.returncode}: {_last_line(ended.stderr)}")
    record = json.loads(path.read_text())
    path.unlink()
    missed = record.pop("failed", "")  # an aim of that command: its figures are there all the same
    return record | {"text": ended.stdout + (f"\n{missed}\n" if missed else "")}


def _input(context: Context) -> dict[str, Any]:
    """Segments from the local disk into host memory."""
    words = ["--participants=16", "--segments=16", "--batch=16", "--round-s=0.02"] if context.sizes.shrink else []
    return _command(context, "input", "--only", "reading", f"--rounds={min(context.sizes.rounds, 3)}", *words)


def _plan(context: Context) -> dict[str, Any]:
    """Predictions of this device's steps against measurements."""
    words = ["--check-cases=small"] if context.sizes.shrink else []
    return _command(context, "plan", "--check", f"--rounds={min(context.sizes.rounds, 3)}", *words)


PARTS = {
    "machine": Part(_machine, 20, "versions, the bfloat16 peak, memory"),
    "contest": Part(_contest, 150, "the step against PyTorch, by batch size; the dearest operations"),
    "variants": Part(_variants, 150, "attention, head sizes, rematerialisation, compiler flags, one at a time"),
    "small": Part(_small, 60, "the default's small models"),
    "training": Part(_training, 110, "300 steps of teacher and student, bfloat16 against float32"),
    "input": Part(_input, 60, "segments from the local disk"),
    "plan": Part(_plan, 180, "`plan --check`"),
}
