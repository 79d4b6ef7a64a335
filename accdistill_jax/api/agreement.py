"""Compares an exported encoder with the trained one, on minutes of people whom neither has seen."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from accdistill_jax.api.shipped import is_shipped
from accdistill_jax.api.store import open_store
from accdistill_jax.config.load import load_config
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.store.opening import hold_out, label_values
from accdistill_jax.data.store.trained_on import people_seen
from accdistill_jax.data.synthetic.synthetic import SyntheticSettings, generate_batch
from accdistill_jax.errors import UserError
from accdistill_jax.evaluation.bootstrap import Estimate, ParticipantBootstrap
from accdistill_jax.export.card import estimate_text, markdown_table
from accdistill_jax.files import is_address
from accdistill_jax.labels import LABELS
from accdistill_jax.readouts.readout import Readouts

INT8_HEADING = "## Cost of int8 weights"
_BATCH = 100
_MOST_MINUTES = 1000
_SIMULATED_PEOPLE = 25
_DRAWS, _SEED = 2000, 8


class UnseenMinutes(NamedTuple):
    """Labelled minutes of test people.

    Attributes:
        signal: [n, samples, channels] float32, in the encoder's unit.
        labels: label -> [n] float64, NaN where unknown.
        participant: [n] str.
    """

    signal: np.ndarray
    labels: dict[str, np.ndarray]
    participant: np.ndarray


class Compared(Protocol):
    """An encoder with its read-outs; see `accdistill_jax.api.encoder.TrainedEncoder`."""

    @property
    def path(self) -> str: ...
    @property
    def modality(self) -> str: ...
    @property
    def readouts(self) -> Readouts | None: ...
    @property
    def data(self) -> str: ...
    @property
    def trained_on(self) -> str: ...


def unseen_minutes(encoder: Compared, *, most: int = _MOST_MINUTES) -> UnseenMinutes | None:
    """Minutes of the test people of the encoder's run; None if the run or its stores are not at hand, or are others by now.

    Nobody among them is a person whom the encoder, its teacher or the encoder it started from was trained on.

    A shipped encoder has no run at hand: its minutes are those of new simulated people, like those that it was trained on.

    Args:
        encoder: its path is an export folder `RUN/student/export` or `RUN/teacher/export`.
        most: minutes to take at most, from the first store that has test people.
    """
    if is_shipped(encoder.path):
        return _simulated_minutes(encoder, most)
    run = Path(encoder.path).parent.parent
    try:
        data = json.loads((run / "config.json").read_text(encoding="utf-8"))["config"]["data"]
        paths = data["stores"] or [str(run / "data/synthetic")]
        stores = [open_store(path) for path in paths if not is_address(path)]
        for store in hold_out(stores, data.get("held_out", ())):
            if store.fingerprint not in encoder.data.split("+"):
                continue
            who, rows = np.asarray(store.segments["participant"]).astype(str), store.indices("test")
            rows = rows[~np.isin(who[rows], list(people_seen(store, encoder.trained_on)))][:most]
            if len(rows):
                signal = store.read_signals(rows)[encoder.modality].astype(np.float32)
                labels = {name: np.asarray(label_values(store, name)[rows], np.float64) for name in LABELS}
                return UnseenMinutes(signal, labels, who[rows])
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return None
    return None


def _simulated_minutes(encoder: Compared, most: int) -> UnseenMinutes:
    name = json.loads((Path(encoder.path) / "export.json").read_text(encoding="utf-8"))["meta"]["shipped"]["config"]
    config = load_config(name).data.synthetic
    minutes = -(-most // _SIMULATED_PEOPLE)
    people = SyntheticSettings(
        participants=_SIMULATED_PEOPLE,
        segments_per_participant=minutes,
        seed=config.seed + 1,
        ppg_channels=config.ppg_channels,
        generator=config.generator,
    )
    batches = [generate_batch(people, person, PreprocessSettings()) for person in range(_SIMULATED_PEOPLE)]
    columns = {name: np.concatenate([batch.columns[name] for batch in batches]) for name in (*LABELS, "participant")}
    signal = np.concatenate([getattr(batch, encoder.modality) for batch in batches])[:most]
    labels = {name: np.asarray(columns[name], np.float64)[:most] for name in LABELS}
    return UnseenMinutes(signal, labels, columns["participant"].astype(str)[:most])


def onnx_embeddings(path: Path, signal: np.ndarray) -> np.ndarray:
    """Embeddings of an exported ONNX file by onnxruntime, on the CPU.

    Raises:
        UserError: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError("onnxruntime is not installed: pip install 'accdistill_jax[export]'") from error
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    parts = [signal[start : start + _BATCH] for start in range(0, len(signal), _BATCH)]
    return np.concatenate([np.asarray(session.run(None, {"signal": part})[0]) for part in parts])


def int8_sections(encoder: Compared, folder: Path) -> Sequence[str]:
    """Paragraphs of a model card: errors of the read-outs with float32 and int8 weights, on test people; none if not measurable.

    Args:
        encoder: the exported encoder.
        folder: holds encoder.onnx and encoder.int8.onnx.
    """
    minutes = unseen_minutes(encoder)
    if minutes is None or encoder.readouts is None:
        return []
    try:
        single, small = (onnx_embeddings(folder / f"encoder{kind}.onnx", minutes.signal) for kind in ("", ".int8"))
    except UserError:
        return []
    rows: list[list[Any]] = []
    for label, readout in encoder.readouts.targets.items():
        known = np.isfinite(minutes.labels[label])
        if not known.any():
            continue
        truth, people = (
            minutes.labels[label][known],
            ParticipantBootstrap(minutes.participant[known], draws=_DRAWS, seed=_SEED),
        )
        errors = [np.abs(readout.estimate(z[known]).value - truth) for z in (single, small)]
        cells = [_mean(people, values) for values in (*errors, errors[1] - errors[0])]
        rows.append([f"{LABELS[label].words} ({LABELS[label].unit})", *map(_text, cells)])
    cosine = np.sum(single * small, axis=1) / np.linalg.norm(single, axis=1) / np.linalg.norm(small, axis=1)
    return [
        INT8_HEADING,
        f"On {len(minutes.signal)} minutes of {len(np.unique(minutes.participant))} test people; the smallest cosine between the embeddings "
        f"of both is {cosine.min():.4f}.",
        markdown_table(rows, heads=("mean absolute error", "float32", "int8 weights", "difference")),
    ]


def _mean(people: ParticipantBootstrap, values: np.ndarray) -> Estimate:
    sums = people.sums(np.stack([values, np.ones_like(values)], axis=1))
    drawn = people.resample(sums)
    with np.errstate(divide="ignore", invalid="ignore"):
        return people.estimate(float(np.mean(values)), drawn[:, 0] / drawn[:, 1])


def _text(estimate: Estimate) -> str:
    return estimate_text({"value": estimate.value, "low": estimate.low, "high": estimate.high})
