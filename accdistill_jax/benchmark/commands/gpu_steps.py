"""`benchmark gpu`: the parts that measure training steps, and the machine's peak rates for comparison."""

import contextlib
import os
import platform
import subprocess
import tempfile
from collections.abc import Mapping
from typing import Any, NamedTuple

from accdistill_jax.benchmark import contest, packages
from accdistill_jax.benchmark.commands.gpu_context import CONTENDERS, Context, Sizes
from accdistill_jax.benchmark.commands.gpu_parity import compare
from accdistill_jax.benchmark.commands.step import FOLLOW_STEPS, accelerated
from accdistill_jax.benchmark.contest import Contender, Worker
from accdistill_jax.config import tree
from accdistill_jax.config.load import load_config
from accdistill_jax.config.record import changed_values
from accdistill_jax.data.synthetic.waveforms import SAMPLES
from accdistill_jax.errors import UserError

SMALL = "distill:mean"
PROFILED_STEPS, KEPT_OPERATIONS = 3, 40  # the report shows fewer
FORMS: dict[str, dict[str, Any]] = {
    "as configured": {},
    "augmented": {"augmented": True},
    "attention as in textbooks": {"attention": "as in textbooks"},
    "heads of half the size": {"heads_factor": 2.0},
    "heads of twice the size": {"heads_factor": 0.5},
    "float32": {"config": {"runtime.compute_dtype": "float32"}},
    "tokens between blocks in float32": {
        "config": {f"{who}.encoder.transformer.residual": "float32" for who in ("teacher", "student")}
    },
    "matrix products by Triton if faster": {"options": {"xla_gpu_enable_triton_gemm": True}},
    "matrix products by cuBLASLt": {"options": {"xla_gpu_enable_cublaslt": True}},
    "no command buffers": {"options": {"xla_gpu_enable_command_buffer": ""}},
    "layer norms by Pallas": {"kernels": ("layer norms",)},
    "GELU's gradient by Pallas": {"kernels": ("GELU's gradient",)},
    "layer norms and GELU's gradient by Pallas": {"kernels": ("layer norms", "GELU's gradient")},
    "layer norms by cuDNN": {"options": {"xla_gpu_enable_cudnn_layer_norm": True}},
    "blocks rematerialised": {"config": {"runtime.rematerialise": "blocks"}},
    "windows, token regression and three bands": {"in_windows": True},
    "half of the tokens dropped": {"config": {"student.drop_fraction": 0.5}},
    "teacher's views cached": {"config": {"teacher.cached_views": 2}},
    "large batch, blocks rematerialised": {"large": True, "config": {"runtime.rematerialise": "blocks"}},
    "large batch in 8 micro-batches": {"large": True, "config": {"student.train.micro_batches": 8}},
}

NORM_TILINGS = [(rows, 2048, warps) for rows in (4, 8, 16, 32) for warps in (2, 4, 8)]  # rows, columns, warps
GELU_TILINGS = [(rows, columns, warps) for rows in (4, 8, 16) for columns in (128, 256, 512) for warps in (4, 8)]


def measure_machine(context: Context) -> dict[str, Any]:
    """Measures the two peak rates: large matrix products in bfloat16, and reading and writing a large array."""
    contenders = [
        Contender("peak", f"{CONTENDERS}.matrix_peak", {"dtype": "bfloat16"}),
        Contender("memory", f"{CONTENDERS}.memory_speed", {}),
    ]
    measured = contest.compete(contenders, rounds=context.sizes.rounds, round_s=context.sizes.round_s)
    driver = ""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    return {
        "driver": driver,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": packages.installed_versions(),
        "peak_flops": contest.rates(measured["peak"], per_iteration=measured["peak"].facts["flops"]),
        "peak_shape": measured["peak"].facts["shape"],
        "memory_bandwidth": contest.rates(measured["memory"], per_iteration=measured["memory"].facts["bytes"]),
    }


def variant_order(
    plain: Mapping[str, Any], *, name: str, batch: int, stage: str = "student", **form: Any
) -> dict[str, Any]:
    """The order of a variant for `benchmark/contenders/variants.py`.

    Args:
        plain: config as plain values.
        name: name in tables.
        batch: segments per device.
        stage: "student" or "teacher".
        **form: "options" of the compiler, a forced form of "attention" and "kernels" of models/gpu_kernels.py, all optional.
    """
    return {
        "name": name,
        "config": plain,
        "stage": stage,
        "batch": batch,
        "compiler_options": form.get("options", {}),
        "attention": form.get("attention", ""),
        "kernels": list(form.get("kernels", ())),
    }


class RemoteStep(NamedTuple):
    """A training step in a measuring process.

    Attributes:
        name: name in tables.
        worker: process that runs it.
        number: its number in that process.
    """

    name: str
    worker: Worker
    number: int


def take_turns(entries: list[RemoteStep], sizes: Sizes, context: Context) -> dict[str, dict[str, Any]]:
    """Measures steps in turn. Every round measures all of them and starts with a different step; near the time limit no round begins.

    Returns:
        By name: "seconds" per step, a number per round; "device_peak_bytes" of its process so far; "failed", a reason, if it failed.
    """
    results: dict[str, dict[str, Any]] = {entry.name: {"seconds": []} for entry in entries}
    counts: dict[str, int] = {}

    def ask(entry: RemoteStep, count: int) -> float | None:
        entry.worker.send({"measure": entry.number, "count": count})
        answer = entry.worker.answer()
        results[entry.name] |= {"device_peak_bytes": answer["device_peak_bytes"]}
        if answer["failed"]:
            results[entry.name]["failed"] = answer["failed"]
            context.say(f"{entry.name}: {answer['failed']}")
            return None
        return answer["seconds"] / count

    for entry in reversed(entries):  # the largest first, while memory is not fragmented
        ask(entry, 1)
        if "failed" not in results[entry.name] and (second := ask(entry, 2)) is not None:
            counts[entry.name] = max(2, round(sizes.round_s / second))
    for number in range(sizes.rounds):
        if not context.has_time():
            break
        turn = number % max(len(entries), 1)
        for entry in entries[turn:] + entries[:turn]:
            if "failed" not in results[entry.name]:
                seconds = ask(entry, counts[entry.name])
                if seconds is not None:
                    results[entry.name]["seconds"].append(seconds)
    return results


def _profile(entry: RemoteStep) -> dict[str, Any]:
    """The most expensive operations of a step, and the sum of all operations."""
    entry.worker.send({"profile": entry.number, "count": PROFILED_STEPS})
    answer = entry.worker.answer()
    operations = answer["operations"]
    total = sum(operation["seconds"] for operation in operations)
    return {
        "failed": answer["failed"],
        "total_s": total,
        "operations": operations[:KEPT_OPERATIONS],
        "count": len(operations),
    }


def measure_contest(context: Context) -> dict[str, Any]:
    """Compares our distillation step with PyTorch's by batch size, from the same weights and batch, and profiles both.

    Small batches are measured in turn; large ones first alone in our process, then, when it has ended, in PyTorch's.
    """
    sizes, plain = context.sizes, context.plain({})
    first = sizes.batches[0]
    wanted = [(None, batch) for batch in sizes.batches] + [("default", batch) for batch in sizes.compiled]
    with tempfile.TemporaryDirectory(dir=context.folder) as share, contextlib.ExitStack() as stack:
        ours_order = {
            "variants": [variant_order(plain, name=f"ours, {batch}", batch=batch) for batch in sizes.batches],
            "share": share,
            "follow_steps": FOLLOW_STEPS,
            "threads": len(sizes.batches),
        }
        peer_order = {
            "share": share,
            "config": plain,
            "accelerator": accelerated(),
            "follow_steps": FOLLOW_STEPS,
            "entries": [{"mode": mode, "times": batch // first} for mode, batch in wanted],
        }
        ours = context.worker("variants", ours_order)
        stack.callback(ours.close, patience_s=5.0)
        device = ours.answer()
        context.say("preparing PyTorch while our step is traced")
        peer = context.worker("peer_variants", peer_order)
        stack.callback(peer.close, patience_s=5.0)
        peer_facts = peer.answer()
        context.say("compiling our step")
        ours.send({"compile": True})
        facts = ours.answer()
        entries = [RemoteStep(name, ours, number) for number, name in enumerate(facts) if not facts[name]["failed"]]
        if "skipped" not in peer_facts:
            names = [f"PyTorch {'compiled' if mode else 'eager'}, {batch}" for mode, batch in wanted]
            failures = dict(zip(names, peer_facts["failed"], strict=True))
            entries += [RemoteStep(name, peer, number) for number, name in enumerate(names) if not failures[name]]
        else:
            failures = {}
        large = [entry for entry in entries if _batch(entry) > sizes.variant_batch]
        small = [entry for entry in entries if entry not in large]
        times: dict[str, dict[str, Any]] = {}
        for entry in reversed([entry for entry in large if entry.worker is ours]):
            times |= take_turns([entry], sizes, context)
        times |= take_turns(small, sizes, context)
        profiled = f"{sizes.variant_batch}" if sizes.variant_batch in sizes.batches else f"{first}"
        kernels = {
            entry.name: _profile(entry)
            for entry in small
            if entry.name.endswith(f", {profiled}") and "failed" not in times[entry.name]
        }
        ours.close(patience_s=5.0)
        for entry in large:
            if entry.worker is peer and context.has_time():
                times |= take_turns([entry], sizes, context)
        times = {entry.name: times[entry.name] for entry in entries if entry.name in times}
        parity = (
            {}
            if "skipped" in peer_facts
            else compare(share, facts[f"ours, {first}"], peer_facts["modes"], dtype=plain["runtime"]["compute_dtype"])
        )
    return {
        "device": device,
        "facts": facts,
        "times": times,
        "kernels": kernels,
        "parity": parity,
        "peer": peer_facts,
        "failures": {name: why for name, why in failures.items() if why},
    }


def _batch(entry: RemoteStep) -> int:
    """Segments per device of a step of the contest, the last part of its name."""
    return int(entry.name.rsplit(", ", 1)[1])


def measure_kernels(context: Context) -> dict[str, Any]:
    """Measures the kernels of models/gpu_kernels.py alone, by tiling, in the sizes of the student's step."""
    encoder, sizes = context.plain({})["student"]["encoder"]["transformer"], context.sizes
    order = {
        "rows": sizes.variant_batch * (SAMPLES // encoder["patch"]),
        "width": encoder["width"],
        "inner": encoder["mlp"],
        "dtype": "bfloat16",
        "norms": NORM_TILINGS[:1] if sizes.shrink else NORM_TILINGS,
        "gelus": GELU_TILINGS[:1] if sizes.shrink else GELU_TILINGS,
        "threads": min(8, os.cpu_count() or 1),
        "rounds": sizes.rounds,
        "count": 2 if sizes.shrink else 20,
    }
    worker = context.worker("kernels", order)
    try:
        return {"forms": worker.answer()} | {key: order[key] for key in ("rows", "width", "inner", "dtype")}
    finally:
        worker.close(patience_s=5.0)


def measure_variants(context: Context) -> dict[str, Any]:
    """Measures forms of the step that differ from the configured step in a single setting: those that `--forms` names, or all.

    The step as configured is always measured, for comparison.
    """
    sizes, orders, unknown = context.sizes, [], {}
    encoder = context.plain({})["student"]["encoder"]["transformer"]
    for name, form in FORMS.items():
        if context.forms and form and name not in context.forms:
            continue
        settings = dict(form.get("config", {}))
        if "heads_factor" in form:
            settings |= {
                f"{who}.encoder.transformer.heads": int(encoder["heads"] * form["heads_factor"])
                for who in ("teacher", "student")
            }
        if form.get("in_windows"):
            settings |= in_windows(tokens=SAMPLES // encoder["patch"])
        try:
            plain = context.plain(settings, augmented=form.get("augmented", False))
        except UserError as problem:  # a setting that this version or this config refuses
            unknown[name] = str(problem)
            continue
        batch = sizes.large_batch if form.get("large") else sizes.variant_batch
        orders.append(
            variant_order(
                plain,
                name=name,
                batch=batch,
                **{key: form[key] for key in ("options", "attention", "kernels") if key in form},
            )
        )
    return _alone(context, orders) | {"unknown": unknown, "forms": list(context.forms or FORMS)}


def in_windows(*, tokens: int) -> dict[str, Any]:
    """Changes by which `paper` differs from `paper-literal`, with at most one window for each token."""
    literal, windows = (tree.plain(load_config(name)) for name in ("distill:paper-literal", "distill:paper"))
    changes = {key: now for key, (_, now) in changed_values(literal, windows).items()}
    return changes | {"student.head.windows": min(changes["student.head.windows"], tokens)}


def measure_small(context: Context) -> dict[str, Any]:
    """Measures the default config's models, both stages."""
    plain = context.plain({"runtime.compute_dtype": "bfloat16"}, config=SMALL)
    orders = [
        variant_order(plain, name=f"{stage}, {batch}", stage=stage, batch=batch)
        for stage in ("student", "teacher")
        for batch in context.sizes.small_batches
    ]
    return _alone(context, orders)


def _alone(context: Context, orders: list[dict[str, Any]]) -> dict[str, Any]:
    """Compiles and measures variants in a single process."""
    order = {"variants": orders, "share": None, "follow_steps": 0, "threads": min(len(orders), os.cpu_count() or 1)}
    worker = context.worker("variants", order)
    try:
        worker.answer()
        worker.send({"compile": True})
        facts = worker.answer()
        context.say("compiled")
        entries = [RemoteStep(name, worker, number) for number, name in enumerate(facts) if not facts[name]["failed"]]
        return {"facts": facts, "times": take_turns(entries, context.sizes, context)}
    finally:
        worker.close(patience_s=5.0)
