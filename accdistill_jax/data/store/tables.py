"""The Parquet tables and counts of a store."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from accdistill_jax.data.preprocessing.window_labels import LABEL_PREFIX
from accdistill_jax.errors import UserError

UNITS = {"ppg": "a.u.", "accel": "g"}
_ATTRIBUTES = {"age_years": pa.float32(), "sex": pa.string(), "height_m": pa.float32(), "weight_kg": pa.float32()}


def segment_table(columns: Sequence[Mapping[str, np.ndarray]]) -> pa.Table:
    """Joins the columns of all units in order. Texts are dictionary-encoded.

    A unit without a user's label (label_NAME) has unknown values of it.

    Raises:
        UserError: units have different columns, or a label is a number in one and a text in another.
    """
    labels = _label_columns(columns)
    names = [name for name in columns[0] if name not in labels]
    for unit in columns[1:]:
        if [name for name in unit if name not in labels] != names:
            raise UserError(f"units have different columns: {', '.join(names)} and {', '.join(unit)}")
    columns = [{**unit, **{n: _label_values(unit, n, kind) for n, kind in labels.items()}} for unit in columns]
    names += sorted(labels)
    arrays = {}
    for name in names:
        values = [unit[name] for unit in columns]
        if any(part.dtype.kind == "U" for part in values):
            coded = [np.unique(part.astype(str), return_inverse=True) for part in values]
            arrays[name] = text_column([unique.tolist() for unique, _ in coded], [codes for _, codes in coded])
        else:
            arrays[name] = pa.array(np.concatenate(values))
    return pa.table(arrays)


def text_column(texts: Sequence[Sequence[str]], codes: Sequence[np.ndarray]) -> pa.DictionaryArray:
    """Joins columns of texts.

    Args:
        texts: distinct texts of each column.
        codes: [rows] int, index in its column's texts of each row's text.

    Returns:
        The rows of all columns, dictionary-encoded with int32 and sorted texts.
    """
    unique = sorted(set(itertools.chain.from_iterable(texts)))
    place = {text: number for number, text in enumerate(unique)}
    joined = [
        np.array([place[text] for text in held], np.int32)[numbers] for held, numbers in zip(texts, codes, strict=True)
    ]
    return pa.DictionaryArray.from_arrays(pa.array(np.concatenate(joined)), pa.array(unique, pa.string()))


def _label_columns(columns: Sequence[Mapping[str, np.ndarray]]) -> dict[str, str]:
    """Name -> "text" or "number" of every column with a user's label."""
    kinds: dict[str, str] = {}
    for unit in columns:
        for name, values in unit.items():
            if not name.startswith(LABEL_PREFIX) or _is_unknown(values):
                continue
            kind = "text" if values.dtype.kind == "U" else "number"
            if kinds.setdefault(name, kind) != kind:
                label = name.removeprefix(LABEL_PREFIX)
                raise UserError(f"the label {label} is a number in one recording and a text in another; write it alike")
    unknown = {name for unit in columns for name in unit if name.startswith(LABEL_PREFIX)} - set(kinds)
    return kinds | dict.fromkeys(unknown, "number")


def _is_unknown(values: np.ndarray) -> bool:
    return not ((values != "") if values.dtype.kind == "U" else np.isfinite(values)).any()


def _label_values(unit: Mapping[str, np.ndarray], name: str, kind: str) -> np.ndarray:
    values = unit.get(name)
    if values is None or _is_unknown(values):
        count = len(unit["participant"])
        return np.full(count, "") if kind == "text" else np.full(count, np.nan)
    return values


def devices_of(segments: pa.Table) -> dict[str, str]:
    """Participant -> devices that the participant wore, joined by commas."""
    if "device" not in segments.column_names:
        return {}
    (people, person), (devices, device) = (_coded(segments[name]) for name in ("participant", "device"))
    pairs = np.unique(person * np.int64(len(devices)) + device)
    worn = defaultdict(list)
    for participant, name in sorted(
        (people[pair // len(devices)], devices[pair % len(devices)]) for pair in pairs.tolist()
    ):
        worn[participant].append(name)
    return {participant: ", ".join(devices) for participant, devices in worn.items()}


def _coded(texts: pa.ChunkedArray) -> tuple[list[str], np.ndarray]:
    """Distinct texts of a column, and [rows] the index of each row's text."""
    encoded = (texts if pa.types.is_dictionary(texts.type) else texts.dictionary_encode()).combine_chunks()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy()


def participant_table(
    participants: Sequence[Mapping], *, split: Mapping[str, str], devices: Mapping[str, str]
) -> pa.Table:
    """Table with one row per participant, sorted by name. Conditions and labels become nullable columns condition_<name>, label_<name>.

    Args:
        participants: `Participant` as dictionaries, one per unit.
        split: participant -> split.
        devices: participant -> devices.

    Raises:
        UserError: two units have different values of a property of a participant.
    """
    merged: dict[str, dict] = {}
    for participant in participants:
        name = participant["participant_id"]
        facts = {key: participant[key] for key in _ATTRIBUTES if participant.get(key) is not None}
        facts |= {f"condition_{key}": value for key, value in (participant.get("conditions") or {}).items()}
        facts |= {LABEL_PREFIX + key: value for key, value in (participant.get("labels") or {}).items()}
        known = merged.setdefault(name, {})
        for key, value in facts.items():
            if known.setdefault(key, value) != value:
                raise UserError(f"participant {name}: {key} is {known[key]} in one recording and {value} in another")
    names = sorted(merged)
    conditions = sorted({key for facts in merged.values() for key in facts if key.startswith("condition_")})
    table = {
        "participant": pa.array(names, pa.string()),
        "split": pa.array([split[name] for name in names], pa.string()),
        "device": pa.array([devices.get(name, "") for name in names], pa.string()),
    }
    for key, kind in _ATTRIBUTES.items():
        table[key] = pa.array([merged[name].get(key) for name in names], kind)
    table["bmi"] = pa.array([_bmi(merged[name]) for name in names], pa.float32())
    for key in conditions:
        table[key] = pa.array([merged[name].get(key) for name in names], pa.bool_())
    for key in sorted({key for facts in merged.values() for key in facts if key.startswith(LABEL_PREFIX)}):
        values = [merged[name].get(key) for name in names]
        texts = [isinstance(value, str) for value in values if value is not None]
        if any(texts) and not all(texts):
            label = key.removeprefix(LABEL_PREFIX)
            raise UserError(f"the label {label} is a number of one participant and a text of another; write it alike")
        table[key] = pa.array(values, pa.string() if all(texts) else pa.float64())
    return pa.table(table)


def counts(units: Sequence[Mapping]) -> dict:
    """Numbers of segments, in total and per participant: examined, kept, and rejected by reason.

    If time stamps were mended, the numbers of these samples are added by stream.
    """
    total, per_participant = _empty(), defaultdict(_empty)
    for about in units:
        for into in (total, per_participant[about["participant"]["participant_id"]]):
            into["examined"] += about["examined"]
            into["kept"] += about["segments"]
            into["rejected"].update(about["rejected"])
            if about.get("mended_stamps"):
                into.setdefault("mended_stamps", Counter()).update(about["mended_stamps"])

    def plain(entry: Mapping) -> dict:
        return {key: dict(sorted(v.items())) if isinstance(v, Counter) else v for key, v in entry.items()}

    return {
        "total": plain(total),
        "participants": {name: plain(entry) for name, entry in sorted(per_participant.items())},
    }


def to_parquet(table: pa.Table) -> bytes:
    """The table as a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def _empty() -> dict:
    return {"examined": 0, "kept": 0, "rejected": Counter()}


def _bmi(facts: Mapping) -> float | None:
    if facts.get("weight_kg") is None or facts.get("height_m") is None:
        return None
    return facts["weight_kg"] / facts["height_m"] ** 2
