"""Damages bytes and JSON values; the same random numbers give the same damage."""

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

GARBAGE = bytes(range(256)) * 3
HUGE = 10**30
Spoil = Callable[[bytes], bytes]


def flip(content: bytes, at: float, bit: int = 4) -> bytes:
    """Flips a bit of the byte at a fraction of the file's length."""
    changed = bytearray(content)
    changed[min(int(at * len(content)), len(content) - 1)] ^= bit
    return bytes(changed)


def byte_damage(rng: random.Random, *, cut: bool = True) -> tuple[str, Spoil]:
    """A random damage to a file: its name, and the function."""
    at, bit = rng.random(), 1 << rng.randrange(8)
    damages: list[tuple[str, Spoil]] = [(f"bit {bit} flipped at {at:.4f}", lambda content: flip(content, at, bit))] * 4
    if cut:
        damages += [
            (f"cut at {at:.4f}", lambda content: content[: int(at * len(content))]),
            ("emptied", lambda content: b""),
            ("replaced by garbage", lambda content: GARBAGE),
            (f"8 bytes overwritten at {at:.4f}", lambda content: _overwrite(content, at)),
            ("lengthened", lambda content: content + b"\0"),
        ]
    return rng.choice(damages)


def _overwrite(content: bytes, at: float) -> bytes:
    begin = int(at * max(len(content) - 8, 0))
    return content[:begin] + bytes(255 - byte for byte in content[begin : begin + 8]) + content[begin + 8 :]


def spoil_file(path: Path, spoil: Spoil | None) -> None:
    """Damages a file; None removes it."""
    if spoil is None:
        path.unlink()
        return
    before = path.read_bytes()
    after = spoil(before)
    assert after != before, f"{path}: nothing was changed"
    path.write_bytes(after)


def leaves(value: Any, path: tuple = ()) -> list[tuple]:
    """Paths of all values without inner values, in JSON-like data."""
    if isinstance(value, dict) and value:
        return [leaf for key, inner in value.items() for leaf in leaves(inner, (*path, key))]
    if isinstance(value, list) and value:
        return [leaf for number, inner in enumerate(value) for leaf in leaves(inner, (*path, number))]
    return [path]


def change_at(value: Any, path: tuple, change: Callable[[Any], Any] | None) -> Any:
    """A copy with the value at a path changed, or removed if `change` is None."""
    value = copy.deepcopy(value)
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    if change is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = change(inner[path[-1]])
    return value


def other_value(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return value[:-1] + ("0" if not value.endswith("0") else "1")
    return [*value, 1] if isinstance(value, list) else {**value, "more": 1}


def other_type(value: Any) -> Any:
    """A value of another type."""
    if isinstance(value, str):
        return [value]
    return {"value": value} if not isinstance(value, dict) else [list(value)]


def json_damage(
    rng: random.Random, content: bytes, *, only: Callable[[tuple], bool] = lambda path: True
) -> tuple[str, Spoil]:
    """A random change of a JSON file that stays JSON: a value, a type or a missing key."""
    data = json.loads(content)
    path = rng.choice([leaf for leaf in leaves(data) if leaf and only(leaf)])
    path = path[: rng.randint(1, len(path))] if rng.random() < 0.3 else path
    how = rng.choice(("another value", "another type", "without the key"))
    change = {"another value": other_value, "another type": other_type, "without the key": None}[how]
    name = ".".join(map(str, path))
    return f"{how} at {name}", lambda content: json.dumps(change_at(json.loads(content), path, change)).encode()
