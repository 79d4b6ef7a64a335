"""The labels of a minute: what is known of a segment besides its signals, and what encoders are judged by.

This is their one home. The columns of a store, the values that the config accepts, the targets of the evaluation and the
words of the reports come from `LABELS`. A new label takes two files:

1. Here, one entry: its name is the column in a store and the value in a config.
2. In `data/preprocessing/segments.py: measured_labels`, its values, where they follow from the heart beats; or in the reader
   or generator that measures them, which passes `References(labels={name: values})` to `finish_segments`. A store whose
   source does not measure the label holds NaN; in a store prepared before the label was added, it reads as unknown.
"""

from typing import NamedTuple


class Label(NamedTuple):
    """A label of a minute.

    Attributes:
        words: name in running text.
        unit: of its values, in reports; plots and errors use it too.
        short: name in narrow tables.
        expected: True if every report has a section for it, with the reason where no segment has a value, and the
            reproduction trains on it. False: it is left out where no segment has a value.
    """

    words: str
    unit: str
    short: str
    expected: bool = False


HEART_RATE = "hr_bpm"
RESPIRATION = "resp_bpm"

LABELS = {
    HEART_RATE: Label("heart rate", "bpm", "HR", expected=True),
    "sdnn_ms": Label("SDNN", "ms", "SDNN", expected=True),
    "rmssd_ms": Label("RMSSD", "ms", "RMSSD", expected=True),
    RESPIRATION: Label("respiration rate", "breaths/min", "respiration rate"),
}


def expected_labels() -> tuple[str, ...]:
    """Names of the labels that every report and the reproduction expect."""
    return tuple(name for name, label in LABELS.items() if label.expected)
