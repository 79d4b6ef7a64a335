"""Sections of a shipped encoder's model card, besides those of every export."""

from collections.abc import Mapping
from typing import Any

from accdistill_jax.api.encoder import TrainedEncoder
from accdistill_jax.export.card import card_text, estimate_text, markdown_table
from accdistill_jax.export.plain import plain_encoder
from accdistill_jax.labels import LABELS

_LIMITS = """\
- Trained on synthetic people alone. On real wrists only the figures above are known, if any.
- `synthetic-small` has seen one fine, quiet sensor on a still wrist; `synthetic-wrist` has seen sensors, clocks and motion as measured on
  real wrists, and is less exact on synthetic people. Neither is shown to read heart rate on a real wrist: both find no heartbeat in most still
  minutes there, and the few answers come from few people. Use them to try the commands and formats, or as a start for your own training.
- The ranges of the generator behind `synthetic-wrist` and `synthetic-teacher` were chosen while looking at the EmbracePlus recordings, which
  are five wearer codes, two of them with 89 % of the minutes. Results on them are not results on unseen people.
- Of pure noise and of a device on a table, a few in a hundred minutes are answered (figures: the guide accdistill_jax/README.md).
- The read-outs refuse a minute with more motion than any training minute, which is most of a day in motion.
- Parameters are stored as float16; all results are those of the stored parameters.
- Licence of the weights: Apache-2.0, as of the code; no recording of a person was used in training."""


def shipped_card(
    name: str, encoder: TrainedEncoder, report: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]]
) -> str:
    """Text of the model card.

    Args:
        name: of the shipped encoder.
        encoder: the encoder.
        report: see `packing.report_of`.
        others: name of a store of real recordings -> label -> result, see `measuring.measure_readouts`.
    """
    config = report["shipped"]["config"]
    sections = [
        "## Read-outs",
        _readouts(report["evaluation"]["readouts"]),
        "A minute is answered unless it has more motion than any training minute, is unlike the training data, shows no heartbeat, or its "
        "interval is no narrower than that of a constant. No heartbeat: its embedding is like those of minutes from which the heart was "
        "taken out, of which the rule lets 1 % pass. The interval's nominal coverage is 90 %; people of another kind break it.",
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
    shown = result["mae"]["high"] < result["median"]["low"]
    constant = "below" if shown else "not shown to be below"
    own = "below" if result["mae"]["value"] < result["own mean"]["value"] else "above"
    words = f"The error of heart rate is {constant} that of a constant, and {own} that of the person's own mean."
    if not result["kept"]:
        return f"{words} The read-out answers none of these minutes: it says that it cannot tell."
    covered, error = result["coverage_kept"]["value"], result["mae_kept"]["value"]
    return (
        f"{words} The read-out answers {100 * result['kept']:.0f} % of the minutes, with an error of {error:.1f} bpm; its intervals hold "
        f"{100 * covered:.0f} % of their labels (nominal 90 %)."
    )
