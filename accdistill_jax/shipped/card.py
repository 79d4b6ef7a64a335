"""Sections of a shipped encoder's model card, besides those of every export."""

from collections.abc import Mapping
from typing import Any

from accdistill_jax.api.encoder import TrainedEncoder
from accdistill_jax.export.card import card_text, estimate_text, markdown_table
from accdistill_jax.export.plain import plain_encoder
from accdistill_jax.labels import LABELS

_LIMITS = """\
- Trained on synthetic people alone. No figure on real people is claimed beyond those below.
- `synthetic-small` has seen one fine, quiet sensor on a still wrist. Real watches are noisier: it refuses most of their minutes, or is wrong.
- `synthetic-wrist` has seen noise, clocks and motion as measured on real wrists. It is less exact, and refuses what it cannot tell.
- The read-outs refuse a minute with more motion than any training minute, which is most of a day in motion.
- Parameters are stored as float16; all results are those of the stored parameters."""


def shipped_card(
    name: str, encoder: TrainedEncoder, report: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]]
) -> str:
    """Text of the model card.

    Args:
        name: of the shipped encoder.
        encoder: the encoder.
        report: see `packing.report_of`.
        others: name of a store of real recordings -> label -> result, see `measuring.measure`.
    """
    config = report["shipped"]["config"]
    sections = [
        "## Read-outs",
        _readouts(report["evaluation"]["readouts"]),
        "A minute is answered unless it has more motion than any training minute, is unlike the training data, or its interval is no "
        "narrower than that of a constant. The interval's nominal coverage is 90 %; people of another kind break it.",
    ]
    for store, results in others.items():
        sections += [f"## Real wrists: {store}", _readouts(results), _verdict(results)]
    sections += [
        "## Limits of the shipped encoders",
        _LIMITS,
        "## Make it again",
        f"```bash\naccdistill train --config={config} --workdir=runs/shipped/{config.partition(':')[2]}\n"
        f"python -m accdistill_jax.shipped runs/shipped\n```",
        "## Use it",
        f'```python\nimport accdistill_jax as ad\n\nencoder = ad.load("{name}")\n```',
    ]
    return card_text(
        plain_encoder(encoder),
        part=encoder.part,
        parameters=encoder.parameters,
        formats=(),
        report=report,
        sections=sections,
    )


def _readouts(results: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for label, result in results.items():
        rows.append(
            [
                f"{LABELS[label].words} ({LABELS[label].unit})",
                f"{result['minutes']} of {result['people']}",
                estimate_text(result["mae"]),
                estimate_text(result["median"]),
                estimate_text(result["own mean"]),
                f"{100 * result['kept']:.0f} %",
                estimate_text(result["mae_kept"]),
                estimate_text(result["coverage_kept"]),
            ]
        )
    heads = (
        "label",
        "minutes, people",
        "error of all minutes",
        "median of training people",
        "person's own mean",
        "answered",
        "error of answered minutes",
        "labels in the 90 % interval",
    )
    return markdown_table(rows, heads=heads)


def _verdict(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Plain words about heart rate on real wrists."""
    result = results["hr_bpm"]
    error, constant, own = (result[key]["value"] for key in ("mae", "median", "own mean"))
    better = "less" if error < constant else "no less"
    beaten = "beats" if error < own else "does not beat"
    words = f"Over all minutes, the error of heart rate is {better} than that of a constant, and it {beaten} the person's own mean."
    if not result["kept"]:
        return f"{words} The read-out answers none of these minutes: it says that it cannot tell."
    covered = result["coverage_kept"]["value"]
    kept = f"It answers {100 * result['kept']:.1f} % of the minutes; its intervals hold {100 * covered:.0f} % of their labels (nominal 90 %)."
    return f"{words} {kept}"
