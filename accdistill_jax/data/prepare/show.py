"""Shows the content of a store: tables for the terminal, and a plot of a few segments."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from accdistill_jax.data.preprocessing.quantise import dequantise
from accdistill_jax.data.preprocessing.sensors import SensorRow, sensor_rows
from accdistill_jax.data.preprocessing.window_labels import LABEL_PREFIX
from accdistill_jax.data.store.manifest import MANIFEST
from accdistill_jax.data.store.opening import QUALITIES
from accdistill_jax.data.store.remarks import remarks
from accdistill_jax.data.store.split import SPLITS
from accdistill_jax.data.store.store import Store
from accdistill_jax.errors import UserError
from accdistill_jax.labels import HEART_RATE, LABELS
from accdistill_jax.text import for_plot, one_line

_MOST_PARTICIPANTS = 40
_MOST_NOT_READ = 10
_MOST_MENDED = 8
_MOST_CLASSES = 4


def counts_table(store: Store, *, most: int = _MOST_PARTICIPANTS) -> Table:
    """Minutes examined, kept and rejected by reason: a row per participant (at most `most`), and the total."""
    counts = store.manifest["counts"]
    minutes = store.manifest["segment_s"] / 60
    reasons = [reason for reason, count in counts["total"]["rejected"].items() if count]
    table = Table(title="Minutes", title_justify="left")
    table.add_column("participant")
    for name in ("examined", "kept", *(f"rejected: {reason}" for reason in reasons)):
        table.add_column(Text(one_line(name)), justify="right")

    def add(name: str, segments: dict, **style) -> None:
        values = [segments["examined"], segments["kept"], *(segments["rejected"].get(r, 0) for r in reasons)]
        table.add_row(Text(one_line(name)), *(f"{value * minutes:g}" for value in values), **style)

    participants = counts["participants"]
    for name in list(participants)[:most]:
        add(name, participants[name])
    if len(participants) > most:
        table.add_row(f"... {len(participants) - most} more", *[""] * (2 + len(reasons)))
    table.add_section()
    add(f"all {len(participants)}", counts["total"], style="bold")
    return table


def labels_table(store: Store) -> Table:
    """Participants, segments and the distribution of each label, the user's own included, by split."""
    table = Table(
        title="Splits; labels as median (5th to 95th percentile) or classes, share of segments (or people) with a label",
        title_justify="left",
    )
    table.add_column("")
    rows = {split: store.indices(split) for split in SPLITS}
    people = store.participants["split"].to_pylist()
    for split in SPLITS:
        table.add_column(split, justify="right")
    table.add_row("participants", *(str(people.count(split)) for split in SPLITS))
    table.add_row("segments", *(str(len(rows[split])) for split in SPLITS))
    for label in (*LABELS, *QUALITIES, "accel_quality"):
        if label in store.segments:
            table.add_row(label, *(_spread(store.segments[label][rows[split]]) for split in SPLITS))
    for label in (name for name in store.segments if name.startswith(LABEL_PREFIX)):
        table.add_row(Text(one_line(label)), *(_own_label(store.segments[label][rows[split]]) for split in SPLITS))
    for label in (name for name in store.participants.column_names if name.startswith(LABEL_PREFIX)):
        values = _of_people(store, label)
        table.add_row(
            Text(one_line(f"{label} (people)")), *(_own_label(values[np.array(people) == split]) for split in SPLITS)
        )
    return table


def sensors_table(store: Store) -> Table | None:
    """Sensors of the recordings, a row for each device and signal; None if the store does not know them."""
    rows = sensor_rows(unit.get("notes") for unit in store.manifest["prepared"])
    if not rows:
        return None
    table = Table(title="Sensors, as median over the recordings", title_justify="left")
    for name in ("device", "signal"):
        table.add_column(name)
    for name in ("recordings", "rate (Hz)", "step", "noise (mg/sqrt(Hz))", "values", "range"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            Text(one_line(row.device)),
            row.signal,
            str(row.recordings),
            _number(row.rate_hz),
            _step(row),
            _number(row.noise_mg),
            f"{_number(row.lowest)} to {_number(row.highest)}",
            f"{_number(row.range[0])} to {_number(row.range[1])}" if row.range else "",
        )
    return table


def print_summary(store: Store, console: Console) -> None:
    """Prints a summary of a store."""
    manifest = store.manifest
    channels = "; ".join(
        f"{name}: {', '.join(store.channels[name])} ({manifest['units'][name]})" for name in store.signals
    )
    print_line(store.path, console, style="bold")
    for line in (
        f"source {manifest['source']}, format version {manifest['format_version']}, fingerprint {store.fingerprint}",
        f"{store.num_segments} segments of {manifest['segment_s']:g} s at {store.rate_hz:g} Hz, {store.size_bytes / 1e6:.1f} MB",
        channels if "ppg" in store.signals else f"{channels}; no PPG",
    ):
        print_line(line, console)
    for part, entry in zip(store.parts, manifest.get("parts", ()), strict=False):
        print_line(f"part {part}: {entry['segments']} segments", console)
    console.print(labels_table(store))
    console.print(counts_table(store))
    sensors = sensors_table(store)
    if sensors is not None:
        console.print(sensors)
    for line in remarks(manifest):
        print_line(line, console)
    print_mended_stamps(manifest.get("prepared") or [], console)
    for name, reason in manifest["skipped"].items():
        print_line(f"left out: recording {name}: {reason}", console)
    print_not_read(manifest.get("not_read") or {}, console)
    empty = [split for split in SPLITS if not len(store.indices(split))]
    if empty:
        print_line(
            f"warning: split {' and '.join(empty)} is empty; with few participants, prepare with "
            "--split-fractions, another --split-seed or a --split-file",
            console,
        )


def print_mended_stamps(prepared: Sequence[Mapping], console: Console, *, most: int = _MOST_MENDED) -> None:
    """Prints the streams whose time stamps were mended, with the method: at most `most`, and the number of the others."""
    mended = [
        (about["unit"], name, count, (about.get("notes") or {}).get(f"{name}_stamps", f"{count} samples"))
        for about in prepared
        for name, count in (about.get("mended_stamps") or {}).items()
    ]
    for unit, name, _, note in mended[:most]:
        print_line(f"time stamps mended: recording {unit}, {name}: {note}", console)
    if len(mended) > most:
        count = sum(count for _, _, count, _ in mended[most:])
        print_line(
            f"time stamps mended: {count} samples of {len(mended) - most} more streams; the store's {MANIFEST} lists all",
            console,
        )


def print_not_read(not_read: Mapping[str, str], console: Console, *, most: int = _MOST_NOT_READ) -> None:
    """Prints the files and folders that were not read, at most `most` for each reason."""
    by_reason: dict[str, list[str]] = {}
    for path, reason in not_read.items():
        by_reason.setdefault(reason, []).append(path)
    for reason, paths in by_reason.items():
        for path in paths[:most]:
            print_line(f"not read: {path}: {reason}", console)
        if len(paths) > most:
            print_line(f"not read: {len(paths) - most} more ({reason}); the store's {MANIFEST} lists all", console)


def print_line(line: object, console: Console, *, style: str = "") -> None:
    """Prints a text as one line, without markup, terminal commands or wrapping."""
    console.print(Text(one_line(line), style=style), soft_wrap=True, highlight=False)


def plot_segments(store: Store, path: str | os.PathLike, *, count: int = 4) -> None:
    """Plots `count` segments, spread evenly over the store, into a PNG file: PPG left (if there is any), acceleration right.

    Raises:
        UserError: the file cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = np.unique(np.linspace(0, store.num_segments - 1, count).round().astype(int))
    batch = store.read(rows)
    time_s = np.arange(store.samples) / store.rate_hz
    figure, axes = plt.subplots(
        len(rows),
        len(store.signals),
        figsize=(13, 2.3 * len(rows)),
        squeeze=False,
        layout="constrained",
        sharex=True,
    )
    for number, row in enumerate(rows):
        for axis, name in zip(axes[number], store.signals, strict=True):
            values = dequantise(batch[name][number], batch[f"{name}_scale"][number], batch[f"{name}_offset"][number])
            if name == "accel":
                values = 1000 * (values - values.mean(axis=0))
            for channel, label in enumerate(store.channels[name]):
                axis.plot(time_s, values[:, channel], linewidth=0.6, label=for_plot(label))
            axis.margins(x=0)
            axis.set_ylabel(
                "acceleration - mean (mg)" if name == "accel" else f"PPG ({for_plot(store.manifest['units'][name])})"
            )
        hr = store.segments[HEART_RATE][row]
        axes[number, 0].set_title(
            f"segment {row}, participant {for_plot(store.segments['participant'][row])}, "
            f"heart rate {'unknown' if np.isnan(hr) else f'{hr:.0f} bpm'}",
            loc="left",
            fontsize=9,
        )
        axes[number, -1].legend(loc="upper right", fontsize=7, ncols=3)
    for axis in axes[-1]:
        axis.set_xlabel("time (s)")
    try:
        figure.savefig(path, dpi=110)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: the plot cannot be written ({error})") from error
    finally:
        plt.close(figure)


def _spread(values: np.ndarray) -> str:
    known = values[np.isfinite(values)]
    if not len(known):
        return "unknown"
    low, middle, high = np.percentile(known, (5, 50, 95))
    return f"{middle:.3g} ({low:.3g} to {high:.3g}), {len(known) / len(values):.0%}"


def _of_people(store: Store, label: str) -> np.ndarray:
    """A label of the participants: [participants] float64 (NaN where unknown), or texts ("" where unknown)."""
    values = store.participants[label].to_pylist()
    if any(isinstance(value, str) for value in values):
        return np.array(["" if value is None else value for value in values], object)
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _own_label(values: np.ndarray) -> str | Text:
    """A user's label: numbers as `_spread`; else the most frequent classes, with their shares among the known values."""
    if values.dtype.kind not in "OU":
        return _spread(values)
    classes = Counter(values[values != ""].tolist())
    if not classes:
        return "unknown"
    parts = [f"{name} {count / classes.total():.0%}" for name, count in classes.most_common(_MOST_CLASSES)]
    if len(classes) > _MOST_CLASSES:
        parts.append(f"{len(classes) - _MOST_CLASSES} more")
    return Text(one_line(f"{', '.join(parts)}; {classes.total() / len(values):.0%}"))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _step(row: SensorRow) -> str:
    """Steps of acceleration are shown in mg."""
    return f"{1e3 * row.step:.3g} mg" if row.step is not None and row.unit == "g" else _number(row.step)
