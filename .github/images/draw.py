"""Draws the pictures of the README: the way of the data, and the result of a finished run of the main job.

python .github/images/draw.py --run runs/distill
"""

import argparse
import json
import shutil
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

import accdistill_jax as ad

PPG, ACCEL, GREY, DARK = "#0072b2", "#e69f00", "#7f7f7f", "#222222"
STYLE = {
    "font.size": 10,
    "svg.hashsalt": "accdistill_jax",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.facecolor": "white",
}

# Rows of the picture of the data's way: title, color, boxes (title, text), and the labels of the arrows that leave the boxes.
WAY = (
    (
        "Prepared once, then read on the CPU: accdistill_jax.data",
        "#eaf3fa",
        (
            ("Recording", "PPG and acceleration,\neach at its own rate"),
            ("Preprocess", "resample, filter, cut\n60 s, check, label"),
            ("Store", "Zarr v3 on disk or\nin an object store"),
            ("Grain", "shuffled global order,\nrows of this host,\nread ahead"),
        ),
        (
            "a.u. and g\nfloat32",
            "[3840, C]\nfloat32, 64 Hz",
            "[B, 3840, C]\nint16 + scale",
            "[B, 3840, C]  int16 + scale, offset",
        ),
    ),
    (
        "Every training step, on the devices: accdistill_jax.inputs, models, objectives, training",
        "#fdf3e1",
        (
            ("Device", "dequantise, normalise,\naugment"),
            ("Encoder", "Transformer or\nEfficientNet"),
            ("Objective", "masked autoencoder or\nInfoNCE with the\nfrozen teacher"),
            ("Optimiser", "AdamW or Muon"),
        ),
        ("[B, 3840, C]\nfloat32, z-score", "[B, D]\nfloat32", "loss,\ngradients", "parameters  float32"),
    ),
    (
        "After training: accdistill_jax.storage, evaluation",
        "#e9f5ee",
        (
            ("Checkpoint", "resume, export"),
            ("Evaluation", "linear probes, retrieval\non unseen people"),
            ("Report", "report.md, report.json,\nplots"),
        ),
        ("encoder,\nfrozen", "bpm, ms, ranks\n95 % intervals"),
    ),
)
LEGEND = "B  segments of a batch\nC  channels: PPG 1 or more,\n     acceleration 3\nD  size of an embedding"
WIDTH, HEIGHT, GAP, ROW, LEFT = 1.72, 0.94, 1.16, 1.72, 0.3  # inches


def draw_way(path: Path) -> None:
    """The way of a minute from recording to report, with shape, type and unit on each arrow."""
    wide, high = 4 * WIDTH + 3 * GAP + 2 * LEFT, len(WAY) * ROW - 0.2
    figure = plt.figure(figsize=(wide, high))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, wide), ylim=(0, high))
    axes.axis("off")
    for number, (title, color, boxes, labels) in enumerate(WAY):
        bottom = high - (number + 1) * ROW + 0.4
        beside_arrow = LEFT + (WIDTH / 2 + 0.15 if number else 0)
        axes.text(beside_arrow, bottom + HEIGHT + 0.1, title, fontsize=9.5, color=GREY, style="italic")
        for place, (name, text) in enumerate(boxes):
            left = LEFT + place * (WIDTH + GAP)
            axes.add_patch(
                FancyBboxPatch(
                    (left, bottom), WIDTH, HEIGHT, boxstyle="round,pad=0,rounding_size=0.08", fc=color, ec=DARK, lw=1
                )
            )
            axes.text(left + WIDTH / 2, bottom + HEIGHT - 0.1, name, ha="center", va="top", weight="bold", fontsize=11)
            axes.text(left + WIDTH / 2, bottom + 0.32, text, ha="center", va="center", fontsize=9, linespacing=1.15)
        middle = bottom + HEIGHT / 2
        for place, label in enumerate(labels[: len(boxes) - 1]):
            start = LEFT + place * (WIDTH + GAP) + WIDTH
            arrow(axes, [(start, middle), (start + GAP, middle)])
            axes.text(start + GAP / 2, middle + 0.07, label, ha="center", va="bottom", fontsize=8.5, color=DARK)
        if len(labels) == len(boxes):
            x, below = LEFT + 3 * (WIDTH + GAP) + WIDTH / 2, bottom - 0.16
            first = LEFT + WIDTH / 2
            arrow(axes, [(x, bottom), (x, below), (first, below), (first, bottom - ROW + HEIGHT)])
            axes.text((x + first) / 2, below - 0.05, labels[-1], ha="center", va="top", fontsize=8.5)
    axes.text(LEFT + 3 * (WIDTH + GAP), bottom + HEIGHT / 2, LEGEND, va="center", fontsize=9, color=DARK)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def arrow(axes: Axes, points: list[tuple[float, float]]) -> None:
    """A line along the points with a head at its end."""
    x, y = zip(*points[:-1], strict=True)
    axes.plot(x, y, color=DARK, lw=1.2, solid_capstyle="butt")
    style = {"arrowstyle": "-|>", "color": DARK, "lw": 1.2, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", points[-1], xytext=points[-2], arrowprops=style)


def draw_result(path: Path, run: Path, *, store: Path, segment: int) -> None:
    """Ten seconds of both signals, and the heart-rate errors of a run's report."""
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))["evaluation"]
    opened = ad.open_store(store)
    row = opened.indices("test")[segment]
    signals = opened.read_signals(np.array([row]))
    samples = int(10 * opened.rate_hz)
    seconds = np.arange(samples) / opened.rate_hz
    figure = plt.figure(figsize=(10.6, 3.5), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(1.25, 1))
    ppg, accel, errors = (figure.add_subplot(grid[place]) for place in ((0, 0), (1, 0), (slice(None), 1)))
    ppg.plot(seconds, signals["ppg"][0, :samples, 0], color=PPG)
    ppg.set(ylabel="PPG (a.u.)", xticklabels=[], xlim=(0, 10))
    ppg.set_title(
        f"Ten seconds of a synthetic person at {opened.segments['hr_bpm'][row]:.0f} bpm", loc="left", fontsize=10.5
    )
    values = 1000 * signals["accel"][0, :samples]
    for axis, shade in enumerate(("#8a5a00", ACCEL, "#f4c96b")):
        accel.plot(seconds, values[:, axis] - values[:, axis].mean() + 12 * (1 - axis), color=shade, lw=1)
        accel.text(10.1, 12 * (1 - axis), "xyz"[axis], color=shade, va="center", weight="bold")
    accel.set(ylabel="acceleration\n(mg, shifted)", xlabel="time (s)", xlim=(0, 10))
    target = report["targets"]["hr_bpm"]
    names = {
        "teacher": "PPG teacher",
        "student": "accelerometer\nstudent",
        "untrained": "untrained\nencoder",
        "mean": "mean\npredictor",
    }
    for place, (name, color) in enumerate(zip(names, (PPG, ACCEL, GREY, GREY), strict=True)):
        mae = target["probes"][name]["mae"]
        low, high = mae["low"], mae["high"]
        errors.barh(place, mae["value"], color=color, height=0.62, alpha=0.55 if color == GREY else 1)
        errors.plot([low, high], [place, place], color=DARK, lw=1.6)
        errors.text(
            high + 0.25, place, f"{mae['value']:.2f}" if mae["value"] < 10 else f"{mae['value']:.1f}", va="center"
        )
    errors.set_yticks(range(len(names)), list(names.values()))
    errors.invert_yaxis()
    errors.set(xlabel="mean absolute error (bpm), 95 % interval")
    errors.margins(x=0.12)
    errors.tick_params(axis="y", length=0)
    errors.set_title(f"Heart-rate error on {target['test_participants']} unseen people", loc="left", fontsize=10.5)
    figure.savefig(path, dpi=130, metadata={"Software": None})
    plt.close(figure)


def main(argv: list[str] | None = None) -> None:
    """Draws all pictures into a folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--run", type=Path, required=True, help="work directory of a finished run of the main job")
    parser.add_argument("--store", type=Path, help="store of that run (default: its synthetic data)")
    parser.add_argument("--segment", type=int, default=0, help="number of the test segment to show")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder for the pictures")
    given = parser.parse_args(argv)
    given.out.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(STYLE):
        draw_way(given.out / "way.svg")
        store = given.store or given.run / "data" / "synthetic"
        draw_result(given.out / "result.png", given.run, store=store, segment=given.segment)
    shutil.copy(given.run / "report" / "heart_rate.png", given.out / "heart_rate.png")


if __name__ == "__main__":
    main()
