"""Estimates the respiration rate of a store's minutes, and writes them into a table that `accdistill probe` reads."""

import csv
import io
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from accdistill_jax.data.preprocessing.respiration import Respiration, estimate_respiration
from accdistill_jax.data.store.store import Store
from accdistill_jax.errors import UserError
from accdistill_jax.files import write_atomically

MIN_QUALITY = 0.3
LEAST_RATE_HZ = 16.0
HEAD = (
    "participant",
    "recording",
    "start",
    "respiration_bpm",
    "quality",
    "accel_bpm",
    "accel_quality",
    "ppg_bpm",
    "ppg_quality",
)
_BLOCK = 256
_RIGHT_BPM = 2.0


class RespirationSummary(NamedTuple):
    """Counts of a table.

    Attributes:
        minutes: all segments.
        known: segments with an estimate of enough quality.
        compared: those of them with a reference.
        mae_bpm: mean absolute error of the compared estimates; NaN without any.
        right: share of the compared estimates within 2 breaths per minute.
    """

    minutes: int
    known: int
    compared: int
    mae_bpm: float
    right: float

    @property
    def words(self) -> str:
        """The summary in a line."""
        line = f"respiration: {self.known} of {self.minutes} minutes have an estimate"
        if self.compared:
            line += f"; mean error against the reference {self.mae_bpm:.2g} breaths/min, {self.right:.0%} within {_RIGHT_BPM:g}"
        return line


def write_respiration(
    stores: Sequence[Store], out: str | os.PathLike[str], *, min_quality: float = MIN_QUALITY
) -> RespirationSummary:
    """Writes a CSV file with a row for each segment; `respiration_bpm` is empty below the lowest quality.

    Args:
        stores: stores of segments of at least 30 s.
        out: the file.
        min_quality: lowest quality of an estimate, 0 to 1.

    Raises:
        UserError: a store with shorter segments or too low a rate, or the file cannot be written.
    """
    if not 0 <= min_quality <= 1:
        raise UserError(f"--min-quality {min_quality:g}: must be from 0 to 1")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEAD)
    errors, minutes, known = [], 0, 0
    for store in stores:
        estimates = respiration_of(store)
        good = estimates.quality >= min_quality
        columns = [np.where(good, estimates.bpm, np.nan), *estimates[1:]]
        for row in range(store.num_segments):
            names = [str(store.segments[name][row]) if name in store.segments else "" for name in HEAD[:2]]
            start = store.segments["start_unix_s"][row] if "start_unix_s" in store.segments else 0.0
            writer.writerow([*names, f"{start:.3f}", *(_cell(column[row]) for column in columns)])
        minutes, known = minutes + len(good), known + int(good.sum())
        if "resp_bpm" in store.segments:
            error = np.abs(estimates.bpm - store.segments["resp_bpm"])[good]
            errors.append(error[np.isfinite(error)])
    try:
        write_atomically(out, text.getvalue())
    except OSError as error:
        raise UserError(f"--out {os.fspath(out)}: cannot be written ({error.strerror or error})") from error
    compared = np.concatenate(errors) if errors else np.zeros(0)
    mae, right = (float(compared.mean()), float((compared <= _RIGHT_BPM).mean())) if compared.size else (np.nan, np.nan)
    return RespirationSummary(minutes, known, compared.size, mae, right)


def respiration_of(store: Store) -> Respiration:
    """Estimates for all segments of a store.

    Raises:
        UserError: its segments are shorter than 30 s, or have less than 16 samples per second.
    """
    if store.samples < 30 * store.rate_hz or store.rate_hz < LEAST_RATE_HZ:
        raise UserError(
            f"{store.path}: respiration needs segments of at least 30 s at {LEAST_RATE_HZ:g} Hz, these have "
            f"{store.samples / store.rate_hz:g} s at {store.rate_hz:g} Hz"
        )
    parts = []
    for start in range(0, store.num_segments, _BLOCK):
        signals = store.read_signals(np.arange(start, min(start + _BLOCK, store.num_segments)))
        parts.append(estimate_respiration(signals.get("ppg"), signals["accel"], rate_hz=store.rate_hz))
    return Respiration(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _cell(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.3f}"
