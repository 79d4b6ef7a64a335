"""`benchmark plan`: hours for a corpus on given hardware, what binds, and how far the prediction is off on this machine."""

import argparse
import json
from collections.abc import Callable
from typing import Any, NamedTuple

from accdistill_jax.benchmark import contest
from accdistill_jax.benchmark.contest import Contender, Measured, spread
from accdistill_jax.config_arguments import add_config, load_config

MODULE = "accdistill_jax.benchmark"
CORPUS_MINUTES = 20_000_000  # of PPG and acceleration in arXiv 2312.05409
SMALL, LARGE = "configs/distill.py", "configs/distill.py:paper"


class Case(NamedTuple):
    """A step that is predicted and measured: preset, stage, segments."""

    config: str
    stage: str
    batch: int

    @property
    def name(self) -> str:
        return f"{self.config}, {self.stage}, {self.batch} segments"


# The first one calibrates what is not a matrix product; the others are predicted with it.
CASES = (
    Case(SMALL, "student", 64),
    Case(SMALL, "student", 16),
    Case(SMALL, "teacher", 64),
    Case(LARGE, "student", 8),
    Case(LARGE, "teacher", 8),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments besides those of every benchmark."""
    add_config(parser, LARGE)
    parser.add_argument("--minutes", type=int, default=CORPUS_MINUTES, metavar="N", help="of the corpus (default 20000000)")
    parser.add_argument("--batch-per-device", type=int, default=128, metavar="N", help="segments (default 128)")
    parser.add_argument("--mfu", type=float, default=0.4, help="assumed share of the bf16 peak (default 0.4)")
    parser.add_argument(
        "--host-input", type=float, default=2.0, metavar="GB/S",
        help="what a host reads and hands over; see `benchmark input` (default 2: 2 cores, warm page cache)",
    )  # fmt: skip
    parser.add_argument("--check", action="store_true", help="predict steps on this machine and compare with measured ones")
    parser.set_defaults(rounds=5)


def measure(arguments: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Computes the plan; with --check also measures."""
    from accdistill_jax.scaling import budget, hardware, program

    config = load_config(arguments.config, arguments.overrides)
    say("counting")
    works = [program.describe(config, stage) for stage in ("teacher", "student") if stage in config.stages]
    settings = {"batch": arguments.batch_per_device, "mfu": arguments.mfu, "host_bytes_per_s": 1e9 * arguments.host_input}
    plans = [
        budget.as_record(budget.plan(work, one, segments=budget.segments_of(work, minutes=arguments.minutes), **settings))
        for one in hardware.known()
        for work in works
    ]
    record = {"config": arguments.config, "minutes": arguments.minutes, **settings, "plans": plans}
    record["durations"] = {work.stage: work.settings.duration for work in works}
    record["segments"] = {work.stage: budget.segments_of(work, minutes=arguments.minutes) for work in works}
    record["segment_bytes"] = {work.stage: work.segment_bytes for work in works}
    if arguments.check:
        record["check"] = check(CASES, arguments, say)
    return record


def check(cases: tuple[Case, ...], arguments: argparse.Namespace, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Predicts and measures the steps of `cases` on this machine, in float32.

    A step is predicted as the time of its matrix products, each measured alone in its shape, and of everything else: so
    many elements at a rate that the first case gives.
    """
    found = []
    for case in cases:
        config = load_config(case.config, [])
        with config.unlocked():
            config.runtime.compute_dtype = "float32"
        order = {"config": json.loads(config.to_json_best_effort()), "stage": case.stage, "batch": case.batch}
        step = order | {"share": None, "follow_steps": 1}
        contenders = (Contender("step", f"{MODULE}.training", step), Contender("products", f"{MODULE}.products", order))
        measured = contest.compete(contenders, rounds=arguments.rounds, round_s=1.5, say=lambda line: None)
        found.append(predicted(case, measured, found[0]["per_element_s"] if found else None))
        say(f"{case.name}: {found[-1]['measured'][0]:.1f} segments/s")
    return found


def predicted(case: Case, measured: dict[str, Measured], per_element_s: float | None) -> dict[str, Any]:
    """A record of a case: segments per second measured and, with the seconds per element of another case, predicted."""
    step, products = (spread(measured[name].seconds) for name in ("step", "products"))
    elements = measured["products"].facts["elements"]
    own = max(step.median - products.median, 0.0) / elements
    rate = None if per_element_s is None else case.batch / (products.median + per_element_s * elements)
    return {
        **case._asdict(),
        "measured": list(contest.rates(measured["step"], per_iteration=case.batch)),
        "predicted": rate,
        "products_share": products.median / step.median,
        "elements": elements,
        "per_element_s": own,
        "products_per_s": measured["step"].facts["flops_per_segment"] * case.batch / products.median,
    }


def report(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    from accdistill_jax.scaling import budget, hardware
    from accdistill_jax.scaling.tables import source_list, table

    rows = []
    for one in record["plans"]:
        slow, fast = one["hours"]
        shown = [one["hardware"], one["stage"], f"{one['batch'] * one['devices']}", f"{slow:.3g} to {fast:.3g}", one["binds"]]
        shown += [f"{1e3 * one['seconds'][name]:.3g}" for name in budget.RESOURCES]
        rows.append([*shown, "yes" if one["fits"] else "no"])
    header = ["hardware", "stage", "global batch", "hours, without to with overlap", "binds"]
    header += [f"{name}, ms a step" for name in budget.RESOURCES]
    corpus = f"{record['minutes']:,} minutes".replace(",", " ")
    out = [f"# Plan: {record['config']} on {corpus}\n\n", table((*header, "fits"), rows)]
    durations = "; ".join(f"{stage} {text}" for stage, text in record["durations"].items())
    out.append(
        f"\n{durations}; {record['batch']} segments per device. Matrix products at {record['mfu']:.0%} of the bf16 peak (assumed); "
        f"a host reads {record['host_bytes_per_s'] / 1e9:g} GB/s. Bytes of device memory: what the backward pass keeps, "
        f"{budget.PASSES_OVER_ACTIVATIONS} times over, before the compiler fuses.\n"
    )
    if "check" in record:
        out.append("\n## Predicted and measured here\n\n" + _check_table(record))
    keys = [key for machine in hardware.known() for key in machine.sources]
    return "".join(out) + "\nSources:\n\n" + source_list(keys)


def _check_table(record: dict[str, Any]) -> str:
    from accdistill_jax.scaling.tables import table

    rows = []
    for one in record["check"]:
        measured = contest.Spread(*one["measured"])
        off = "calibrates" if one["predicted"] is None else f"{one['predicted'] / measured.median - 1:+.0%}"
        rows.append(
            [
                f"{one['config']}, {one['stage']}, batch {one['batch']}",
                measured.text(),
                "" if one["predicted"] is None else f"{one['predicted']:.3g}",
                off,
                f"{one['products_share']:.0%}",
                f"{one['products_per_s'] / 1e9:.0f}",
                f"{1e9 * one['per_element_s']:.2f}",
            ]
        )
    header = (
        "step", "segments/s", "predicted", "off by", "its products alone", "these run at, GFLOP/s", "ns per other element",
    )  # fmt: skip
    text = table(header, rows)
    large = {one["stage"]: one for one in record["check"] if one["config"] == record["config"]}
    if set(record["segments"]) <= set(large):
        hours = {stage: count / large[stage]["measured"][0] / 3600 for stage, count in record["segments"].items()}
        text += "\nThis machine would need " + " and ".join(f"{h:,.0f} hours ({stage})" for stage, h in hours.items()) + ".\n"
    return text
