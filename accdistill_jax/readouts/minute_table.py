"""The table of embedded minutes: whose minute a row is, its embedding, and predictions with intervals and reasons."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from accdistill_jax.readouts.label_probe import LabelPrediction, LabelProbe
from accdistill_jax.readouts.readout import Prediction, Readouts

Predictions = Mapping[str, Prediction | LabelPrediction]
_UNITS = {"quality": "0 to 1", "motion": "g"}


def embedded_minutes(
    columns: Mapping[str, np.ndarray], embeddings: np.ndarray, predictions: Predictions | None = None
) -> pa.Table:
    """The table of embedded minutes.

    Args:
        columns: participant, recording, start_unix_s, quality and motion, each [n]; further ones (text) follow the first two.
        embeddings: [n, D] float32.
        predictions: label -> n predictions.

    Returns:
        A row for each minute: participant, recording (text); start (UTC); quality (0 to 1), motion (g), embedding (list of D
        float32); then the columns of `prediction_columns`.
    """
    start = (np.asarray(columns["start_unix_s"], np.float64) * 1e6).round().astype(np.int64)
    known = ("participant", "recording", "start_unix_s", "quality", "motion")
    texts = ("participant", "recording", *(name for name in columns if name not in known))
    arrays = {
        **{name: pa.array(np.asarray(columns[name]).astype(str).tolist(), pa.string()) for name in texts},
        "start": pa.array(start, pa.int64()).cast(pa.timestamp("us", "UTC")),
        "quality": pa.array(np.asarray(columns["quality"], np.float32)),
        "motion": pa.array(np.asarray(columns["motion"], np.float32)),
        "embedding": pa.FixedSizeListArray.from_arrays(
            pa.array(np.ascontiguousarray(embeddings).reshape(-1)), embeddings.shape[1]
        ),
    }
    arrays |= prediction_columns(predictions or {}, len(embeddings))
    fields = [
        pa.field(name, array.type, metadata={"unit": _UNITS[name]} if name in _UNITS else None)
        for name, array in arrays.items()
    ]
    return pa.Table.from_arrays(list(arrays.values()), schema=pa.schema(fields))


def prediction_columns(predictions: Predictions, count: int) -> dict[str, pa.Array]:
    """Columns of predictions.

    Args:
        predictions: label -> predictions; a single one, of a person, is repeated.
        count: number of rows.

    Returns:
        For each label NAME: NAME, NAME_low and NAME_high (a class has NAME_probability instead), null where it is unknown; and
        NAME_unknown, the reason, "" for a prediction.
    """
    columns: dict[str, pa.Array] = {}
    for name, prediction in predictions.items():
        value = _spread(prediction.value, count)
        if value.dtype.kind == "U":
            columns[name] = pa.array([text or None for text in value.tolist()], pa.string())
            columns[f"{name}_probability"] = numbers(_spread(prediction.low, count))
        else:
            columns[name] = numbers(value)
            columns[f"{name}_low"] = numbers(_spread(prediction.low, count))
            columns[f"{name}_high"] = numbers(_spread(prediction.high, count))
        columns[f"{name}_unknown"] = pa.array(_spread(prediction.reason, count).astype(str).tolist(), pa.string())
    return columns


def numbers(values: np.ndarray) -> pa.Array:
    """Float64 numbers, null where NaN."""
    return pa.array(np.asarray(values, np.float64), from_pandas=True)


def content_hash(readouts: Readouts | None, probes: Mapping[str, LabelProbe]) -> str:
    """Hash of everything that determines the predictions of read-outs."""
    content = [None if readouts is None else dataclasses.asdict(readouts)]
    content += [dataclasses.asdict(probe) for probe in probes.values()]
    text = json.dumps(content, default=lambda array: hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest())
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _spread(values: np.ndarray, count: int) -> np.ndarray:
    return np.broadcast_to(values, count) if len(values) == 1 else values
