"""WristMeasures the sensors and wrists of stores and prints them side by side, recorded or synthetic."""

from collections.abc import Iterator

import numpy as np
from rich.table import Table
from rich.text import Text

from accdistill_jax.data.preprocessing.measures import WristMeasures, measure_minutes
from accdistill_jax.data.preprocessing.quantise import dequantise
from accdistill_jax.data.store.store import Store
from accdistill_jax.errors import UserError
from accdistill_jax.text import one_line

BY = ("device", "participant")
_BLOCK = 256
_GROUPS_A_TABLE = 5
_TEXTS = {
    "noise_mg": "noise, mg/sqrt(Hz)",
    "motion_mg": "SD in 2 s, mg",
    "beat_mg": "mean beat, mg",
    "chance_mg": "without heart, mg",
    "beat_hz": "beat's centre, Hz",
    "steadiness": "beat's steadiness",
    "lag_s": "pulse after beat, s",
    "turn_deg": "turn, degrees",
    "breath_mg": "breathing, mg",
}


def measure_store(store: Store, rows: np.ndarray) -> WristMeasures:
    """WristMeasures segments of a store.

    Args:
        store: a store whose rate is above 60 Hz.
        rows: [N] numbers of segments.

    Raises:
        UserError: a lower rate, at which the noise cannot be measured.
    """
    if store.rate_hz <= 60.0:
        raise UserError(f"{store.path}: measures need segments at more than 60 Hz, and these have {store.rate_hz:g} Hz")
    parts = []
    for start in range(0, len(rows), _BLOCK):
        batch = store.read(rows[start : start + _BLOCK])
        ppg, accel = (
            dequantise(batch[name], batch[f"{name}_scale"], batch[f"{name}_offset"]) for name in ("ppg", "accel")
        )
        parts.append(measure_minutes(ppg, accel, rate_hz=store.rate_hz))
    return WristMeasures(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def measures_tables(stores: list[Store], *, by: str = "device", segments: int = 500) -> Iterator[Table]:
    """Median (5th to 95th percentile) of each of `WristMeasures`, in tables of at most five columns.

    Args:
        stores: stores to compare.
        by: "device" or "participant": a column for each, in each store.
        segments: most segments of a column, spread evenly over its segments.
    """
    groups = [(store, name, rows) for store in stores for name, rows in _groups(store.segments[by])]
    for first in range(0, len(groups), _GROUPS_A_TABLE):
        part = groups[first : first + _GROUPS_A_TABLE]
        chosen = [rows[np.unique(np.linspace(0, len(rows) - 1, segments).round().astype(int))] for _, _, rows in part]
        measured = [measure_store(store, rows) for (store, _, _), rows in zip(part, chosen, strict=True)]
        table = Table(title="Median (5th to 95th percentile) over segments", title_justify="left")
        table.add_column("")
        for (store, name, _), rows in zip(part, chosen, strict=True):
            table.add_column(Text(f"{one_line(store.path)}\n{one_line(name)}\n{len(rows)} segments"), overflow="fold")
        for field, text in _TEXTS.items():
            table.add_row(text, *(_spread(getattr(measures, field)) for measures in measured))
        yield table


def _groups(names: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    for name in sorted(set(names.tolist())):
        yield name, np.flatnonzero(names == name)


def _spread(values: np.ndarray) -> str:
    known = values[np.isfinite(values)]
    if not len(known):
        return "unknown"
    low, middle, high = np.percentile(known, (5, 50, 95))
    return f"{middle:.2g} ({low:.2g} to {high:.2g})"
