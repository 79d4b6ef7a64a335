"""Markdown tables of the benchmarks and of the scaling model."""

from collections.abc import Iterable, Sequence

from accdistill_jax.benchmark.model.hardware import ASSUMED, SOURCES
from accdistill_jax.benchmark.model.model import StepEstimate, largest_model
from accdistill_jax.benchmark.model.program import Work
from accdistill_jax.benchmark.model.traffic import UPDATE, Collective, total
from accdistill_jax.models.build import parameter_count

MB, GB = 1e6, 1e9


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table with all columns but the first aligned to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def time_table(rows: Sequence[Sequence[StepEstimate]]) -> str:
    """The table of time and efficiency.

    Args:
        rows: a row per hardware, with its estimates at the assumed shares of the peak; the same shares in all rows.
    """
    shares = [f"{estimate.mfu:.0%}" for estimate in rows[0]]
    header = [
        "hardware",
        "TFLOP per step and device",
        "MB sent: gradients and metrics",
        "MB sent: embeddings",
        "communication, ms, upper to lower bound",
        *(f"compute, ms, at {share} of the peak" for share in shares),
        *(f"efficiency at {share}" for share in shares),
        f"segments/s, all devices, at {shares[-1]}",
        f"input per host, GB/s, at {shares[-1]}",
    ]
    return table(header, map(_time_row, rows))


def _time_row(estimates: Sequence[StepEstimate]) -> list[str]:
    last = estimates[-1]
    gradients = sum(last.sent_bytes.get(what, 0.0) for what in UPDATE)
    step_s = max(last.compute_s, last.fast_s)
    return [
        last.hardware.name,
        f"{last.flops / 1e12:.3g}",
        f"{gradients / MB:.3g}",
        f"{(sum(last.sent_bytes.values()) - gradients) / MB:.3g}",
        f"{1e3 * last.slow_s:.2g}{' (a)' if ASSUMED in last.hardware.sources else ''} to {1e3 * last.fast_s:.2g}",
        *(f"{1e3 * estimate.compute_s:.3g}" for estimate in estimates),
        *(
            f"{100 * estimate.efficiency_serial:.1f} to {100 * estimate.efficiency_overlapped:.1f} %"
            for estimate in estimates
        ),
        f"{last.batch * last.hardware.devices / step_s:,.0f}".replace(",", " "),
        f"{last.input_bytes_per_s / GB:.2g}",
    ]


def memory_table(works: Sequence[Work], batches: Sequence[int], *, devices: int) -> str:
    """The table of bytes per device, by stage."""
    header = ["per device, MB", *(f"{work.stage}" for work in works)]
    rows = [["trained parameters, millions", *(f"{parameter_count(work.params) / 1e6:.2f}" for work in works)]]
    states = [work.state_bytes(devices=devices, sharded=False) for work in works]
    for name in dict.fromkeys(name for state in states for name in state):
        rows.append([name, *(f"{state[name] / MB:.1f}" if name in state else "" for state in states)])
    rows.append(["sum", *(f"{sum(state.values()) / MB:.1f}" for state in states)])
    sharded = [sum(work.state_bytes(devices=devices, sharded=True).values()) for work in works]
    rows.append([f"sum with moments split over {devices} devices", *(f"{size / MB:.1f}" for size in sharded)])
    for batch in batches:
        kept = [work.activation_bytes(batch=batch) / MB for work in works]
        rows.append(
            [f"kept for the backward pass, {batch} segments", *(f"{size:,.0f}".replace(",", " ") for size in kept)]
        )
    return table(header, rows)


def limit_table(memories: Sequence[float], *, devices: int) -> str:
    """The table of the largest number of trained parameters, by memory of a device."""
    header = (
        "memory of a device",
        "replicated",
        f"moments split over {devices}",
        "replicated, with a frozen teacher of the same size",
    )
    rows = []
    for memory in memories:
        limits = (
            largest_model(memory),
            largest_model(memory, devices=devices),
            largest_model(memory, frozen_share=1.0),
        )
        rows.append([f"{memory / GB:.0f} GB", *(f"{limit / 1e9:.2f} billion" for limit in limits)])
    return table(header, rows)


def count_table(counted: Sequence[Collective], expected: Sequence[Collective], *, devices: int) -> str:
    """The table of bytes by kind of collective, in the compiled program and by formula; `expected` is [] without a formula."""
    counted_bytes, expected_bytes = total(counted, devices), total(expected, devices)
    rows = []
    for kind in dict.fromkeys([*expected_bytes, *counted_bytes]):
        instructions = sum(collective.kind == kind for collective in counted)
        by_formula = [f"{expected_bytes.get(kind, 0):.0f}"] if expected else []
        rows.append([kind, f"{instructions}", f"{counted_bytes.get(kind, 0):.0f}", *by_formula])
    header = ("collective", "instructions", "bytes per device, compiled", *(("by formula",) if expected else ()))
    return table(header, rows)


def source_list(keys: Iterable[str]) -> str:
    """The sources with these keys as a list, in the order of `SOURCES`."""
    keys = set(keys)
    return "".join(f"- {text}\n" for key, text in SOURCES.items() if key in keys)
