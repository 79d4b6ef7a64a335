"""Damaged stores: every kind of file, bytes and values."""

import itertools
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from accdistill_jax.data.store.manifest import checksum, manifest_fingerprint
from accdistill_jax.data.store.store import Store
from tests.bad_inputs.bases import BATCH, SMOKE, Bases
from tests.bad_inputs.case import MAIN, PREPARE, Case
from tests.bad_inputs.hostile_stores import hostile_stores
from tests.bad_inputs.mutations import (
    Spoil,
    byte_damage,
    change_at,
    flip,
    json_damage,
    leaves,
    other_type,
    spoil_file,
)

_TRAIN = (
    SMOKE,
    "--workdir={}/run",
    "--config.data.stores=('{}/store',)",
    "--config.stages=('teacher',)",
    f"--config.teacher.train.batch_size={BATCH}",
)
_VERIFY, _SHOW = ("verify", "{}/store"), ("show", "{}/store")
# Keys that reading relies on. A manifest with another value of a different key, written with a new fingerprint, is another store.
_TYPED = (
    "num_segments",
    "samples",
    "rate_hz",
    "segment_s",
    "channels",
    "units",
    "counts",
    "split",
    "preprocess",
    "source_settings",
    "skipped",
    "source",
    "prepared",
    "files",
)


def cases(rng: random.Random, bases: Bases) -> Iterator[Case]:
    """Each kind of damage in turn, without end."""
    kinds = [
        _small_file,
        _shard_data,
        _shard_index,
        _manifest_value,
        _resigned_manifest,
        _whole_file,
        _shard_data,
        _small_file,
        _tables,
        _versions,
        _hostile,
    ]
    seen = set()
    for kind in itertools.cycle(kinds):
        case = kind(rng, bases)
        if case.name not in seen:
            seen.add(case.name)
            yield case


def _meet(rng: random.Random) -> tuple[str, str, tuple[str, ...]]:
    """A program that opens a store: its name, the module and the arguments."""
    return rng.choice([("train", MAIN, _TRAIN), ("verify", PREPARE, _VERIFY), ("show", PREPARE, _SHOW)])


def _case(bases: Bases, rng: random.Random, what: str, damage, *named: str, meet=None) -> Case:
    word, module, arguments = meet or _meet(rng)

    def build(folder: Path) -> None:
        shutil.copytree(bases.store, folder / "store")
        damage(folder / "store")

    return Case(f"{what}; {word}", module, arguments, ("{}/store", *named), build)


def _file_case(bases: Bases, rng: random.Random, name: str, how: str, spoil: Spoil | None, meet=None) -> Case:
    return _case(bases, rng, f"{name} {how}", lambda store: spoil_file(store / name, spoil), name, meet=meet)


def _files(bases: Bases) -> list[str]:
    return sorted(json.loads((bases.store / "manifest.json").read_text())["files"])


def _small_file(rng: random.Random, bases: Bases) -> Case:
    name = rng.choice([name for name in _files(bases) if "/c/0/0/0" not in name])
    return _file_case(bases, rng, name, *byte_damage(rng))


def _shard_data(rng: random.Random, bases: Bases) -> Case:
    """Changes a byte of a training segment: opening does not notice it, the first batch must."""
    store = Store.open(bases.store)
    signal = rng.choice(("ppg", "accel"))
    row_bytes = 2 * store.samples * len(store.channels[signal])
    segment = int(rng.choice(store.indices("train").tolist()))
    at, bit = segment * row_bytes + rng.randrange(row_bytes), 1 << rng.randrange(8)
    size = (bases.store / signal / "c/0/0/0").stat().st_size
    return _file_case(
        bases,
        rng,
        f"{signal}/c/0/0/0",
        f"bit {bit} of byte {at} flipped",
        lambda content: flip(content, (at + 0.5) / size, bit),
        meet=rng.choice([("train", MAIN, _TRAIN)] * 3 + [("verify", PREPARE, _VERIFY)]),
    )


def _shard_index(rng: random.Random, bases: Bases) -> Case:
    signal, behind = rng.choice(("ppg", "accel")), rng.randrange(16 * 1024 + 4)
    size = (bases.store / signal / "c/0/0/0").stat().st_size
    return _file_case(
        bases,
        rng,
        f"{signal}/c/0/0/0",
        f"index flipped {behind} bytes before the end",
        lambda content: flip(content, (size - 1 - behind + 0.5) / size),
        meet=rng.choice([("train", MAIN, _TRAIN), ("verify", PREPARE, _VERIFY)]),
    )


def _manifest_value(rng: random.Random, bases: Bases) -> Case:
    """Changes a value by hand; the versions of the software do not count as data."""
    content = (bases.store / "manifest.json").read_bytes()
    spoils = [json_damage(rng, content, only=lambda path: path[0] != "software"), byte_damage(rng)]
    how, spoil = rng.choice(spoils)
    if spoil is spoils[1][1] and "flipped" in how:
        how, spoil = spoils[0]  # a flipped bit can fall on a blank, or among the versions
    return _file_case(bases, rng, "manifest.json", how, spoil)


def _write_manifest(store: Path, manifest: dict) -> None:
    (store / "manifest.json").write_text(json.dumps(manifest | {"fingerprint": manifest_fingerprint(manifest)}))


def _resigned_manifest(rng: random.Random, bases: Bases) -> Case:
    """A manifest with wrong types, or one that contradicts the arrays, with a fingerprint that fits."""
    manifest = json.loads((bases.store / "manifest.json").read_text())
    changes = [((key,), change) for key in _TYPED for change in (None, other_type)]
    changes += [(("num_segments",), lambda value, more=more: value + more) for more in (-1, 1, 10**12)]
    changes += [
        (("samples",), lambda value: 2 * value),
        (("channels", "ppg"), lambda value: value[:1]),
        (("samples",), lambda value: -value),
        (("rate_hz",), lambda value: -value),
        (("channels", "accel"), lambda value: [1, 2, 3]),
    ]
    changes += [(path, other_type) for path in leaves(manifest["files"], ("files",))]
    path, change = rng.choice(changes)
    number = rng.randrange(1000)
    return _case(
        bases,
        rng,
        f"manifest.json signed again with another {'.'.join(path)} ({number})",
        lambda store: _write_manifest(store, change_at(manifest, path, change)),
    )


def _whole_file(rng: random.Random, bases: Bases) -> Case:
    """Missing files, folders in their place, and files of another store."""
    name = rng.choice([*_files(bases), "manifest.json"])
    other = bases.other_store / name
    kinds = ["gone", "a folder"]
    if other.read_bytes() != (bases.store / name).read_bytes() and name != "manifest.json":
        kinds += ["of another store"] * 4
    how = rng.choice(kinds)

    def damage(store: Path) -> None:
        (store / name).unlink()
        if how == "a folder":
            (store / name).mkdir()
        elif how == "of another store":
            shutil.copy(other, store / name)

    meet = rng.choice([("train", MAIN, _TRAIN), ("verify", PREPARE, _VERIFY)])
    return _case(bases, rng, f"{name} {how}", damage, name, meet=meet)


def _tables(rng: random.Random, bases: Bases) -> Case:
    """A table with wrong content, under a manifest that fits it."""
    name, column = rng.choice(
        [
            ("segments.parquet", "crc32"),
            ("segments.parquet", "participant"),
            ("participants.parquet", "split"),
            ("participants.parquet", "participant"),
        ]
    )
    how = rng.choice(("without the column", "with a row less", "of text"))

    def damage(store: Path) -> None:
        table = pq.read_table(store / name)
        if how == "without the column":
            pq.write_table(table.drop_columns([column]), store / name)
        elif how == "with a row less":
            pq.write_table(table.slice(1), store / name)
        else:
            (store / name).write_text("participant,split\nanna,train\n")
        content = (store / name).read_bytes()
        manifest = json.loads((store / "manifest.json").read_text())
        manifest["files"][name] = {"bytes": len(content), "sha256": checksum(content)}
        _write_manifest(store, manifest)

    return _case(bases, rng, f"{name} {how} {column}", damage, name)


def _hostile(rng: random.Random, bases: Bases) -> Case:
    """A store that was made by hand to do harm."""
    name, spoil = rng.choice(
        [hostile for hostile in hostile_stores() if "sparse" not in hostile.name]
    )  # the judge reads all files
    return _case(
        bases,
        rng,
        f"hostile {name} ({rng.randrange(1000)})",
        spoil,
        meet=rng.choice([("train", MAIN, _TRAIN), ("verify", PREPARE, _VERIFY)]),
    )


def _versions(rng: random.Random, bases: Bases) -> Case:
    version = rng.choice([1, 0, -1, 3, 10**30, 2.0, "2", None, True, [2], np.nan])
    manifest = json.loads((bases.store / "manifest.json").read_text())
    what = rng.choice(["format_version", "format"])
    value = (
        version
        if what == "format_version"
        else rng.choice(["", 5, None, "accdistill_jax", ["accdistill_jax segment store"]])
    )
    return _case(
        bases, rng, f"{what} {value!r}", lambda store: _write_manifest(store, manifest | {what: value}), "manifest.json"
    )
