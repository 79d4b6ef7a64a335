"""`benchmark plan`: hours for a corpus on given hardware, the limiting resource, and the prediction's error on this machine."""

import argparse
import math
import os
import tempfile
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from accdistill_jax.benchmark import contest
from accdistill_jax.benchmark.commands.step import accelerated
from accdistill_jax.benchmark.contest import Contender, Measured, spread
from accdistill_jax.config.convert import changed
from accdistill_jax.config.load import add_config, load_config
from accdistill_jax.config.tree import plain
from accdistill_jax.errors import UserError

MODULE = "accdistill_jax.benchmark.contenders"
CORPUS_MINUTES = 20_000_000  # the corpus of PPG and acceleration in arXiv 2312.05409
SMALL, LARGE = "distill:mean", "distill:paper-literal"


class Case(NamedTuple):
    """A step that is predicted and measured.

    Attributes:
        config: name of a config.
        stage: "student" or "teacher".
        batch: segments per device.
        calibrates: the measured step sets the share of the peak at which the matrix products of this config run. Each config has
            a single such case; it does not test the plan.
    """

    config: str
    stage: Literal["student", "teacher"]
    batch: int
    calibrates: bool = False

    @property
    def name(self) -> str:
        return f"{self.config}, {self.stage}, {self.batch} segments"


CASES = (
    Case(SMALL, "student", 16),
    Case(SMALL, "student", 64, calibrates=True),
    Case(SMALL, "teacher", 64),
    Case(LARGE, "student", 8),
    Case(LARGE, "student", 32, calibrates=True),
    Case(LARGE, "teacher", 8),
)
TOLERATED = 0.2  # largest relative error of a prediction
HERE = "this machine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments besides those of every benchmark."""
    add_config(parser, LARGE)
    parser.add_argument(
        "--minutes", type=int, default=CORPUS_MINUTES, metavar="N", help="minutes of the corpus (default 20000000)"
    )
    parser.add_argument(
        "--batch-per-device", type=int, default=128, metavar="N", help="segments per device (default 128)"
    )
    parser.add_argument("--mfu", type=float, default=0.4, help="assumed share of the bf16 peak (default 0.4)")
    parser.add_argument(
        "--slice", metavar="NAME", help='show only hardware whose name contains this, such as "v5e" or "4 x 8 H100"'
    )
    parser.add_argument(
        "--host-input",
        type=float,
        metavar="GB/S",
        help="input rate of a host, measured on such a host by `benchmark input` (default: input is not counted)",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="also measure steps on this machine and compare them with the plan's predictions; exit status 1 if a prediction is "
        f"off by more than {100 * TOLERATED:g} %%",
    )
    parser.add_argument(
        "--check-cases",
        choices=("all", "small"),
        default="all",
        help="steps that --check measures: all, or the default's models only",
    )
    parser.set_defaults(rounds=5)


def chosen_hardware(name: str | None) -> list[Any]:
    """The known hardware that `--slice` selects.

    Args:
        name: part of the hardware's name; None: all hardware.

    Raises:
        UserError: no hardware has this name.
    """
    from accdistill_jax.benchmark.model import hardware

    known = hardware.known()
    selected = [machine for machine in known if name is None or name.lower() in machine.name.lower()]
    if not selected:
        raise UserError(
            f"--slice {name!r} selects no hardware; known are {'; '.join(machine.name for machine in known)}"
        )
    return selected


def measure(arguments: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Computes the plan; with --check also measures.

    Raises:
        UserError: an unknown slice, or a measuring process failed.
    """
    from accdistill_jax.benchmark.model import budget, program

    machines = chosen_hardware(arguments.slice)
    config = load_config(arguments.config, arguments.overrides)
    say("counting")
    works = [program.describe_work(config, stage) for stage in ("teacher", "student") if stage in config.stages]
    rate = math.inf if arguments.host_input is None else 1e9 * arguments.host_input
    settings = {"batch": arguments.batch_per_device, "mfu": arguments.mfu, "host_bytes_per_s": rate}
    plans = []
    for machine in machines:
        for work in works:
            planned = budget.plan(
                work, machine, segments=budget.segments_of(work, minutes=arguments.minutes), **settings
            )
            needed = machine.host_devices * arguments.batch_per_device * work.segment_bytes / planned.step_s[1]
            plans.append(planned.as_record() | {"host_bytes_wanted_per_s": needed})
    record = {"config": arguments.config, "minutes": arguments.minutes, **settings, "plans": plans}
    record["host_bytes_per_s"] = None if arguments.host_input is None else rate  # JSON has no infinity
    record["sources"] = sorted({key for machine in machines for key in machine.sources})
    record["durations"] = {work.stage: work.settings.duration for work in works}
    record["segments"] = {work.stage: budget.segments_of(work, minutes=arguments.minutes) for work in works}
    record["segment_bytes"] = {work.stage: work.segment_bytes for work in works}
    if arguments.check:
        record["machine"], record["check"] = check_plan(
            tuple(case for case in CASES if arguments.check_cases == "all" or case.config == SMALL), arguments, say
        )
        predicted = [case for case in record["check"] if not case["calibrates"]]
        far = [case for case in predicted if abs(case["off"]) > TOLERATED]
        if far:
            record["failed"] = f"{len(far)} of {len(predicted)} predicted steps are off by more than {TOLERATED:.0%}"
    return record


def check_plan(
    cases: tuple[Case, ...], arguments: argparse.Namespace, say: Callable[[str], None]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Predicts the steps of `cases` on this machine and measures them, in float32 (on accelerators in bfloat16).

    The machine is measured first: large matrix products (the peak), reading and writing a large array (the memory), reading
    segments (the input). For each config the step of its calibrating case gives the share of the peak, the plan's `mfu`. With it
    the config's other cases (another stage, another batch) are predicted.

    Returns:
        The machine, and a record of each case.
    """
    from accdistill_jax.benchmark.model import budget, program

    dtype = "bfloat16" if accelerated() else "float32"
    machine, rate = measured_hardware(arguments, dtype)
    say(
        f"{HERE}: {machine.peak_flops / 1e9:.0f} GFLOP/s, memory {machine.memory_bandwidth / 1e9:.1f} GB/s, input {rate / 1e9:.1f} GB/s"
    )
    compared_cases, shares = [], {}
    for case in sorted(cases, key=lambda case: not case.calibrates):
        config = changed(load_config(case.config), {"runtime.compute_dtype": dtype})
        order = {"config": plain(config), "stage": case.stage, "batch": case.batch}
        contender = Contender("step", f"{MODULE}.training", order | {"share": None, "follow_steps": 1})
        measured = contest.compete([contender], rounds=arguments.rounds, round_s=1.5)["step"]
        work = program.describe_work(config, case.stage)
        sizes = {"batch": case.batch, "segments": case.batch, "host_bytes_per_s": rate}
        if case.calibrates:
            at_peak = budget.plan(work, machine, mfu=1.0, **sizes).seconds
            on_products = spread(measured.seconds).median - at_peak["device memory"]
            shares[case.config] = at_peak["matrix products"] / on_products
        share = shares[case.config]
        compared_cases.append(compared(case, measured, budget.plan(work, machine, mfu=share, **sizes), mfu=share))
        off = "sets the share of the peak" if case.calibrates else f"{compared_cases[-1]['off']:+.0%}"
        say(f"{case.name}: {compared_cases[-1]['measured'][0]:.1f} segments/s, {off}")
    described = {
        "peak_flops": machine.peak_flops,
        "memory_bandwidth": machine.memory_bandwidth,
        "host_bytes_per_s": rate,
    }
    return described, compared_cases


def measured_hardware(arguments: argparse.Namespace, dtype: str) -> tuple[Any, float]:
    """Measures this machine: it as `Hardware` with a single device, and the bytes per second at which it reads segments."""
    from accdistill_jax.benchmark.made_up.made_up_store import write_noise_store
    from accdistill_jax.benchmark.model.hardware import Hardware

    with tempfile.TemporaryDirectory() as folder:
        store = write_noise_store(f"{folder}/store", participants=8, segments=64)
        reading = {
            "store": store.path,
            "batch": 64,
            "steps": 6,
            "warm_steps": 6,
            "threads": 2,
            "prefetch": 8,
            "once": False,
            "concurrency": 32,
            "cache_mb": 0,
        }
        contenders = (
            Contender("peak", f"{MODULE}.matrix_peak", {"dtype": dtype}),
            Contender("memory", f"{MODULE}.memory_speed", {}),
            Contender("input", f"{MODULE}.reading", reading),
        )
        measured = contest.compete(contenders, rounds=arguments.rounds, round_s=1.0)
    segment = sum(array["bytes"] for array in measured["input"].facts["bytes_per_segment"].values())
    sizes = (
        measured["peak"].facts["flops"],
        measured["memory"].facts["bytes"],
        measured["input"].facts["segments"] * segment,
    )
    peak, memory, rate = (
        contest.rates(array, per_iteration=size).median for array, size in zip(measured.values(), sizes, strict=True)
    )
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Hardware(HERE, peak, installed, memory, (), 1, ()), rate


def compared(case: Case, measured: Measured, planned: Any, *, mfu: float) -> dict[str, Any]:
    """The record of a case. The prediction is the plan's time without overlap: nothing overlaps within a CPU's step."""
    step = spread(measured.seconds)
    return {
        **case._asdict(),
        "measured": list(contest.rates(measured, per_iteration=case.batch)),
        "predicted": case.batch / planned.step_s[0],
        "off": step.median / planned.step_s[0] - 1.0,
        "seconds": planned.seconds,
        "mfu": mfu,
    }


def report(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    from accdistill_jax.benchmark.model import budget
    from accdistill_jax.benchmark.model.tables import source_list, table

    rows = []
    for planned in record["plans"]:
        slow, fast = planned["hours"]
        shown = [
            planned["hardware"],
            planned["stage"],
            f"{planned['batch'] * planned['devices']}",
            f"{slow:.3g} to {fast:.3g}",
            planned["binds"],
        ]
        shown += [f"{1e3 * planned['seconds'][name]:.3g}" for name in budget.RESOURCES]
        shown.append(f"{planned['host_bytes_wanted_per_s'] / 1e9:.2g}")
        rows.append([*shown, "yes" if planned["fits"] else "no"])
    header = ["hardware", "stage", "global batch", "hours, without to with overlap", "limiting resource"]
    header += [f"{name}, ms per step" for name in budget.RESOURCES]
    corpus = f"{record['minutes']:,} minutes".replace(",", " ")
    header.append("input a host needs, GB/s")
    reads = "a host's input is not counted (--host-input)"
    if record["host_bytes_per_s"] is not None:
        reads = f"a host reads {record['host_bytes_per_s'] / 1e9:g} GB/s"
    out = [f"# Plan: {record['config']} on {corpus}\n\n", table((*header, "fits"), rows)]
    durations = "; ".join(f"{stage} {text}" for stage, text in record["durations"].items())
    out.append(
        f"\n{durations}; {record['batch']} segments per device. Matrix products at {record['mfu']:.0%} of the bf16 peak (assumed); "
        f"{reads}. Traffic of the device memory: the activations kept for the backward pass, before fusion, moved "
        f"{budget.PASSES_OVER_ACTIVATIONS} times.\n"
    )
    if "check" in record:
        out.append("\n## Predicted and measured on this machine\n\n" + _check_table(record))
    return "".join(out) + "\nSources:\n\n" + source_list(record["sources"])


def _check_table(record: dict[str, Any]) -> str:
    from accdistill_jax.benchmark.model import budget
    from accdistill_jax.benchmark.model.tables import table

    rows = []
    for case in record["check"]:
        measured = contest.MedianRange(*case["measured"])
        rows.append(
            [
                f"{case['config']}, {case['stage']}, batch {case['batch']}",
                measured.text(),
                f"{case['predicted']:.3g}",
                "sets the share"
                if case["calibrates"]
                else f"{case['off']:+.0%}" + (" (beyond)" if abs(case["off"]) > TOLERATED else ""),
                f"{case['mfu']:.0%}",
                *(f"{1e3 * case['seconds'][name]:.3g}" for name in budget.RESOURCES if name != "interconnect"),
            ]
        )
    header = ("step", "segments/s", "predicted", "off by", "share of the peak")
    header += tuple(f"{name}, ms" for name in budget.RESOURCES if name != "interconnect")
    here = record["machine"]
    text = table(header, rows) + (
        f"\nThe same plan with this machine as the hardware: {here['peak_flops'] / 1e9:.0f} GFLOP/s (large products), memory "
        f"{here['memory_bandwidth'] / 1e9:.1f} GB/s, input {here['host_bytes_per_s'] / 1e9:.1f} GB/s, all measured in this run. A single "
        "measured case of each config sets the share of the peak for its other cases. Off by: measured over predicted time of a step; "
        f"a plan is wrong if it is off by more than {TOLERATED:.0%}.\n"
    )
    large = {case["stage"]: case for case in record["check"] if case["config"] == record["config"]}
    if set(record["segments"]) <= set(large):
        hours = {stage: count / large[stage]["measured"][0] / 3600 for stage, count in record["segments"].items()}
        text += (
            "\nThis machine would need "
            + " and ".join(f"{h:,.0f} hours ({stage})" for stage, h in hours.items())
            + ".\n"
        )
    return text
