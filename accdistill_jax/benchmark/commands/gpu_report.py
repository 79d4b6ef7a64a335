"""The record of `benchmark gpu` as Markdown."""

from collections.abc import Mapping
from typing import Any

from accdistill_jax.benchmark.contest import Measured, ratios, spread
from accdistill_jax.benchmark.model.tables import table


def report(record: Mapping[str, Any]) -> str:
    """The measured parts, in the order of `WRITERS`."""
    parts = record["parts"]
    lines = [f"# GPU: {record['config']}{', rehearsal: the figures mean nothing' if record['tiny'] else ''}\n"]
    peak = parts.get("machine", {}).get("peak_flops", [None])[0]
    for name, write in WRITERS.items():
        part = parts.get(name)
        if part is None:
            continue
        lines.append(f"\n## {name} ({part['date']}, {part['seconds']:.0f} s)\n")
        lines.append(f"Failed: {part['failed']}\n" if "failed" in part else write(part, peak))
    return "\n".join(lines)


def _machine(part: Mapping[str, Any], peak: float) -> str:
    low, high = (value / 1e12 for value in part["peak_flops"][1:])
    return (
        f"{part['driver'] or 'no nvidia-smi'}; {part['cores']} cores. Matrix peak {peak / 1e12:.0f} TFLOP/s ({low:.0f} to {high:.0f}; "
        f"{part['peak_shape']}); memory {part['memory_bandwidth'][0] / 1e12:.2f} TB/s, read and written.\n\n"
        f"Python {part['python']}, {', '.join(f'{name} {version}' for name, version in part['versions'].items())}.\n"
    )


def _rows(part: Mapping[str, Any], peak: float | None, *, base: str) -> list[list[str]]:
    """A row per variant: speed, ratio to `base`, share of the peak, memory, seconds to compile, cuDNN attentions."""
    rows, times = [], part["times"]
    for name, facts in part["facts"].items():
        seconds = times.get(name, {}).get("seconds")
        if not seconds:
            rows.append(
                [name, f"failed: {facts['failed'] or times.get(name, {}).get('failed', '')}", "", "", "", "", ""]
            )
            continue
        rate = spread([facts["segments"] / second for second in seconds])
        reached = facts["flops"] / spread(seconds).median
        larger = facts["segments"] / part["facts"][base]["segments"] if times.get(base, {}).get("seconds") else 0.0
        ratio = _ratio(times, base, name, scale=larger) if larger else ""
        temporary = facts["temporary_bytes"]
        rows.append(
            [
                name,
                rate.text(),
                ratio,
                "" if peak is None else f"{reached / peak:.1%}",
                "" if temporary is None else f"{temporary / 1e9:.1f}",
                f"{facts['compile_s']:.0f}",
                str(facts["fused_attentions"]),
            ]
        )
    return rows


SHOWN_OPERATIONS = 10
HEADER = (
    "",
    "segments/s",
    "times as fast as the first",
    "share of the matrix peak",
    "temporary memory, GB",
    "s to compile",
    "cuDNN attentions",
)


def _ratio(times: Mapping[str, Any], base: str, name: str, *, scale: float = 1.0) -> str:
    """Speed of a variant's step relative to the step of `base`, round by round; `scale`: its segments relative to those of `base`."""
    first, other = (Measured({}, times[which]["seconds"], 0) for which in (base, name))
    if len(first.seconds) != len(other.seconds):
        return ""
    return ratios(first, other).scaled(scale).text("{:.2f}")


def _contest(part: Mapping[str, Any], peak: float | None) -> str:
    facts, times, rows = part["facts"], part["times"], []
    for name, measured in times.items():
        batch = name.rsplit(", ", 1)[1]
        ours = f"ours, {batch}"
        if not measured["seconds"]:
            rows.append([name, f"failed: {measured.get('failed', '')}", "", "", ""])
            continue
        segments, flops = facts[ours]["segments"], facts[ours]["flops"]
        rate = spread([segments / second for second in measured["seconds"]])
        reached = flops / spread(measured["seconds"]).median
        share = "" if peak is None else f"{reached / peak:.1%}"
        against = "" if name == ours or not times.get(ours, {}).get("seconds") else _ratio(times, name, ours)
        rows.append([name, rate.text(), against, share, f"{(measured['device_peak_bytes'] or 0) / 1e9:.1f}"])
    rows += [[name, f"failed: {fact['failed']}", "", "", ""] for name, fact in facts.items() if fact["failed"]]
    rows += [[name, f"failed: {why}", "", "", ""] for name, why in part["failures"].items()]
    text = table(
        ("", "segments/s", "ours is faster by", "share of the matrix peak", "peak memory of the process so far, GB"),
        rows,
    )
    fused = {name: fact.get("fused_attentions") for name, fact in facts.items()}
    text += f"\ncuDNN attentions in our programs: {fused}.\n"
    if "skipped" in part["peer"]:
        text += f"\nPyTorch is left out: {part['peer']['skipped']}.\n"
    for mode, parity in part["parity"].items():
        verdict = "the same step" if parity["agrees"] else "**NOT the same step**"
        text += (
            f"\nPyTorch {mode} against ours: {verdict}; loss and gradient norm differ by {parity['difference']:.1e} (allowed "
            f"{parity['allowed'][0]:.0e}), parameters by {parity['parameters']:.1e} of their movement (allowed "
            f"{parity['allowed'][1]:.0e}).\n"
        )
    for name, kernels in part["kernels"].items():
        text += f"\n### Most expensive operations: {name}\n\n{_kernels(kernels)}"
    return text


def _kernels(kernels: Mapping[str, Any]) -> str:
    if kernels["failed"]:
        return f"failed: {kernels['failed']}\n"
    total = kernels["total_s"] or 1.0
    rows = [
        [
            _short(operation["name"]),
            _short(operation["source"]),
            f"{1e3 * operation['seconds']:.2f}",
            f"{operation['seconds'] / total:.1%}",
            f"{operation['calls']:.0f}",
        ]
        for operation in kernels["operations"][:SHOWN_OPERATIONS]
    ]
    return (
        table(("", "source", "ms per step", "share", "calls"), rows)
        + f"\nSum of all {kernels['count']} operations: {1e3 * total:.1f} ms per step.\n"
    )


def _short(text: str) -> str:
    text = text.replace("|", "/")
    return text if len(text) <= 70 else f"{text[:34]}..{text[-34:]}"


def _kernel_forms(part: Mapping[str, Any], peak: float | None) -> str:
    rows, by_xla = [], {form["kernel"]: form["seconds"] for form in part["forms"] if form["tiling"] is None}
    for form in part["forms"]:
        seconds, base = form["seconds"], by_xla[form["kernel"]]
        tiling = "{} rows, {} columns, {} warps".format(*form["tiling"]) if form["tiling"] else "by XLA"
        faster = ratios(Measured({}, base, 0), Measured({}, seconds, 0)).text() if base and seconds else ""
        rows.append(
            [
                form["kernel"],
                tiling,
                spread([1e3 * second for second in seconds]).text() if seconds else f"failed: {form['failed']}",
                faster,
                f"{form['difference']:.1e}" if seconds else "",
            ]
        )
    header = ("", "tiling", "ms", "faster than by XLA by", "largest difference")
    sizes = f"{part['rows']} rows of {part['width']}, {part['inner']} within an MLP, {part['dtype']}"
    return f"{sizes}.\n\n{table(header, rows)}"


def _variants(part: Mapping[str, Any], peak: float | None) -> str:
    first = next(iter(part["facts"]))
    text = table(HEADER, _rows(part, peak, base=first))
    return text + "".join(f"\n{name}: {why}\n" for name, why in part.get("unknown", {}).items())


def _training(part: Mapping[str, Any], peak: float | None) -> str:
    rows = []
    for dtype, curves in part["curves"].items():
        for stage in ("teacher", "student"):
            loss = curves[stage]["loss"]
            places = sorted({0, len(loss) // 4, len(loss) // 2, len(loss) - 1})
            course = ", ".join(f"{loss[place]:.3f}" for place in places)
            speed, waited = (
                f"{spread(values).median:.3g}" if values else "" for values in (curves[stage][name] for name in TIMINGS)
            )
            rows.append([f"{stage}, {dtype}", course, speed, waited])
    header = (
        f"{part['steps']} steps of {part['batch']} segments",
        "loss at start, quarter, half, end",
        "segments/s",
        "share of time waiting for input",
    )
    seconds = ", ".join(f"{dtype} {curves['seconds']:.0f} s" for dtype, curves in part["curves"].items())
    return table(header, rows) + (
        f"\nBoth trainings ran at the same time on this device; each would be faster alone. Time with start and compilation: "
        f"{seconds}. Time to generate the data before: {part['data_s']:.0f} s.\n"
    )


TIMINGS = ("segments_per_s", "input_wait_fraction")


def _text(part: Mapping[str, Any], peak: float | None) -> str:
    return part["text"]


WRITERS = {
    "machine": _machine,
    "contest": _contest,
    "kernels": _kernel_forms,
    "variants": _variants,
    "small": _variants,
    "training": _training,
    "input": _text,
    "plan": _text,
}
