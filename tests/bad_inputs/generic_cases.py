"""Bad recordings in the generic layout: wrong values in a description, and damaged files."""

import functools
import io
import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.bad_inputs.bases import Bases, generic_description
from tests.bad_inputs.case import Case
from tests.bad_inputs.damaged_recording import damaged
from tests.bad_inputs.mutations import GARBAGE, HUGE, change_at, leaves

_NOT_A_NUMBER = ("abc", None, [], {}, True, float("nan"), float("inf"), "1")
_NOT_POSITIVE = (0, -1, *_NOT_A_NUMBER)
# path in the description -> wrong values
_WRONG: dict[tuple[str, ...], tuple] = {
    ("participant",): (None, "", [], {}, {"age_years": 3}, True, 1.5),
    ("participant", "id"): ("", None, [], {}, False),
    ("participant", "age_years"): ("old", -3, 1e9, [], float("nan"), True),
    ("participant", "height_m"): (180, 0, -1, "tall", {}),
    ("participant", "weight_kg"): (0, -75, 1e300, "75 kg"),
    ("participant", "sex"): ("x", 5, [], True),
    ("participant", "conditions"): (
        [1],
        "none",
        5,
        {"beta_blocker": "no"},
        {"beta_blocker": 1},
        {"beta_blocker": None},
    ),
    ("start",): (
        "yesterday",
        float("nan"),
        1e300,
        [],
        {},
        True,
        "2024-13-01",
        "9999-12-31",
        1714557600000,
        -1e12,
        HUGE,
        "0001-01-01T00:00:00+14:00",
    ),
    ("streams",): (None, [], "ppg", 5, {}),
    ("streams", "ppg"): (None, [], "ppg.csv", {}),
    ("streams", "accel"): (None, [1], {}),
    ("streams", "ppg", "file"): (None, 5, "", "none.csv", ".", [], "acc.parquet", "recording.json"),
    ("streams", "ppg", "columns"): (
        None,
        [],
        "green",
        ["red"],
        [7],
        [-1],
        [None],
        [[]],
        [True],
        {},
        ["green", "green"],
        [HUGE],
        [0.5],
    ),
    ("streams", "ppg", "rate_hz"): (
        *_NOT_POSITIVE[:2],
        1e-9,
        1e300,
        1e12,
        5e-324,
        *(value for value in _NOT_A_NUMBER if value is not None),
    ),
    ("streams", "ppg", "range"): (5, [1], [9, -9], ["a", "b"], [1, 2, 3], "0-4095", [0, 0], [float("nan"), 1]),
    ("streams", "ppg", "polarity"): ("up", 5, [], None, {}),
    ("streams", "ppg", "clock_offset_s"): ("x", [], 1e300, float("inf"), float("nan"), 1e9, True),
    ("streams", "ppg", "delimiter"): ("", ";;", 5, [], None),
    ("streams", "ppg", "skip_rows"): (-1, 1.5, "two", [], 10**9, HUGE, True),
    ("streams", "accel", "time"): ("stamp", 17, -1, [], {}, True),
    ("streams", "accel", "time_unit"): ("h", 5, [], {}, "S"),
    ("streams", "accel", "time_origin"): ("midnight", [], float("nan"), {}, 1e300),
    ("streams", "accel", "unit"): ("G", 5, [], "furlong", "g"),
    ("streams", "accel", "counts_per_g"): (*_NOT_POSITIVE,),
    ("streams", "accel", "columns"): (["x", "y"], ["x", "y", "w"], ["x"]),
    ("streams", "accel", "rate_hz"): (50, 0),
    ("beats",): ([], "beats.csv", 5, {}),
    ("beats", "interval"): (None, "rr", 9, []),
    ("beats", "interval_unit"): ("min", 5, [], {}),
    ("beats", "time"): (None, "when", []),
    ("heart_rate",): ([], "hr.csv", 5, {}),
    ("heart_rate", "duration_s"): (*_NOT_POSITIVE, 1e300),
    ("heart_rate", "hr"): (None, "pulse", 9, []),
    ("heart_rate", "file"): (None, "none.csv", [], 5),
}


def wrong_value(rng: random.Random, bases: Bases) -> Case:
    """A description with a wrong value or an unknown key."""
    description = generic_description()
    if rng.random() < 0.15:
        path = rng.choice(
            [leaf for leaf in leaves(description) if leaf[-1] not in ("x", "y", "z", "beta_blocker", 0, 1, 2)]
        )
        wrong = path[-1][:-1] + "_x"
        changed = _renamed(description, path, wrong)
        return damaged(
            "generic",
            bases.generic,
            f"unknown key {'.'.join(path[:-1])}.{wrong}",
            functools.partial(_describe, changed),
            wrong,
        )
    path = rng.choice(list(_WRONG))
    value = rng.choice(_WRONG[path])
    changed = _with(description, path, value)
    return damaged(
        "generic", bases.generic, f"{'.'.join(path)} = {value!r}", functools.partial(_describe, changed), "day1"
    )


def _with(description: dict, path: tuple, value: object) -> dict:
    return {**description, path[0]: value if len(path) == 1 else _with(description[path[0]], path[1:], value)}


def _renamed(description: dict, path: tuple, key: str) -> dict:
    def rename(inner: dict) -> dict:
        return {key if name == path[-1] else name: value for name, value in inner.items()}

    return change_at(description, path[:-1], rename) if path[:-1] else rename(description)


def _describe(description: dict, root: Path) -> None:
    (root / "day1" / "recording.json").write_text(json.dumps(description))


def damaged_file(rng: random.Random, bases: Bases) -> Case:
    """A damaged table or description."""
    file = rng.choice(
        ("recording.json", "recording.yaml", "ppg.csv", "ppg.csv", "acc.parquet", "acc.parquet", "beats.csv", "hr.csv")
    )
    at = rng.random()
    whole: dict[str, Callable[[bytes], bytes | None]] = {
        "emptied": lambda content: b"",
        "garbage": lambda content: GARBAGE,
        "utf-16": lambda content: content.decode().encode("utf-16"),
    }
    if file == "acc.parquet":
        whole = {
            "emptied": lambda content: b"",
            "garbage": lambda content: GARBAGE,
            "removed": lambda content: None,
            f"cut at {at:.3f}": lambda content: content[: int(at * len(content))],
            "no footer": lambda content: content[:-8] + bytes(8),
        }
        for name, change in _TABLES.items():
            whole[name] = functools.partial(_table, change)
    elif file == "recording.yaml":
        whole = {name: lambda content, text=text: text.encode("latin-1") for name, text in _YAML.items()}
    elif file == "recording.json":
        whole |= {
            f"cut at {at:.3f}": lambda content: content[: int(at * (len(content) - 1))],
            "a list": lambda content: b"[]",
            "nested deep": lambda content: b"[" * 200_000,
            "a number": lambda content: b"5",
        }
    else:
        row, cell = rng.randrange(2, 60), rng.choice(("abc", "1e400", "inf", "1,2,3,4", "\x00", "1;2"))
        whole |= {
            "removed": lambda content: None,
            "a folder": lambda content: b"folder",
            "header only": lambda content: content.splitlines(True)[0],
            f"cell {cell!r} in line {row}": lambda content: _cell(content, row, cell),
        }
        if file == "beats.csv":
            whole |= {
                "negative interval": lambda content: content.replace(b",833", b",-833"),
                "times that fall": _reversed,
            }
        if file == "hr.csv":
            whole |= {
                "negative heart rate": lambda content: content.replace(b",72", b",-72"),
                "heart rate of 7200": lambda content: content.replace(b",72", b",7200"),
            }
    how = rng.choice(list(whole))

    def damage(root: Path) -> None:
        folder = root / "day1"
        if file == "recording.yaml":
            (folder / "recording.json").unlink()
        path = folder / file
        content = whole[how](path.read_bytes() if path.exists() else b"")
        if how in ("removed", "a folder"):
            path.unlink()
        if how == "a folder":
            path.mkdir()
        elif content is not None:
            path.write_bytes(content)

    return damaged("generic", bases.generic, f"{file} {how}", damage, f"{file}|stream 'accel'")


def _cell(content: bytes, row: int, cell: str) -> bytes:
    lines = content.decode().splitlines()
    lines[row - 1] = ",".join([*lines[row - 1].split(",")[:-1], cell])
    return ("\n".join(lines) + "\n").encode()


def _reversed(content: bytes) -> bytes:
    header, *rows = content.splitlines(keepends=True)
    return header + b"".join(reversed(rows))


def _table(change: Callable[[pa.Table], pa.Table], content: bytes) -> bytes:
    sink = io.BytesIO()
    pq.write_table(change(pq.read_table(io.BytesIO(content))), sink)
    return sink.getvalue()


def _column(table: pa.Table, name: str, values: object) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, pa.array(values))


_TABLES: dict[str, Callable[[pa.Table], pa.Table]] = {
    "without x": lambda table: table.drop_columns(["x"]),
    "without rows": lambda table: table.slice(0, 0),
    "x of text": lambda table: _column(table, "x", ["abc"] * len(table)),
    "x of lists": lambda table: _column(table, "x", [[1.0]] * len(table)),
    "x infinite": lambda table: _column(table, "x", np.full(len(table), np.inf)),
    "x beyond float32": lambda table: _column(table, "x", np.full(len(table), 1e300)),
    "nothing but NaN": lambda table: functools.reduce(
        lambda changed, name: _column(changed, name, np.full(len(changed), np.nan)), "xyz", table
    ),
    "times that fall": lambda table: _column(table, "t", table["t"].to_numpy()[::-1]),
    "times all equal": lambda table: _column(table, "t", np.zeros(len(table))),
    "times of text": lambda table: _column(table, "t", ["10:00"] * len(table)),
    "a time missing": lambda table: _column(table, "t", [None, *table["t"].to_pylist()[1:]]),
    "times over a million years": lambda table: _column(table, "t", np.append(table["t"].to_numpy()[:-1], 3e16)),
    "times infinite": lambda table: _column(table, "t", np.append(table["t"].to_numpy()[:-1], np.inf)),
}
_YAML = {
    "not closed": "participant: {id: p01\nstreams: [",
    "tabs": "participant:\n\t- x\n",
    "a python object": "!!python/object/apply:os.system ['true']",
    "two documents": "participant: a\n---\nparticipant: b\n",
    "a word": "recording",
    "empty": "",
    "numbers for keys": "1: 2\n3: 4\n",
    "an unknown anchor": "participant: *who\n",
    "binary": "\x00\x01\x02",
    "an alias of itself": "&a [*a]\n",
    "nested deep": "[" * 20_000,
    "a date out of range": "participant: a\nstart: 2024-99-99T00:00:00Z\nstreams: {}\n",
}
