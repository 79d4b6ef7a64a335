"""Merges stores into a store of parts: new tables and a manifest; the arrays stay in the stores that hold them.

The manifest names the parts by their paths relative to the new store. So a merge costs tables alone, on a disk and in a bucket, and no
segment exists twice. The parts must stay: a part that is missing or was replaced is refused when the store is opened.

Rules:

- All parts have equal preprocessing settings and channels.
- Equal names are the same person, who must be in the same split in all parts, with equal properties.
- No person has an id in one part that lacks study and site in another (shorter_ids.py).
- No recording is repeated, under any name (repeated.py).
- A column that a part lacks is unknown there: NaN, or an empty text.
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from accdistill_jax.data.preprocessing.window_labels import LABEL_PREFIX
from accdistill_jax.data.store import tables
from accdistill_jax.data.store.content import encode_hashes, store_hashes
from accdistill_jax.data.store.exclusive import exclusive_store
from accdistill_jax.data.store.manifest import (
    ADDED,
    CONTENT,
    FORMAT_OF_PARTS,
    FORMAT_VERSION,
    MANIFEST,
    PARTICIPANTS,
    SEGMENTS,
    checksum,
    has_parts,
    manifest_fingerprint,
    read_manifest,
    real_path,
    relative_path,
)
from accdistill_jax.data.store.removal import is_store_file, refuse_other_content
from accdistill_jax.data.store.repeated import Recordings, refuse_shared_content
from accdistill_jax.data.store.request import difference, json_bytes
from accdistill_jax.data.store.shorter_ids import refuse_shorter_ids
from accdistill_jax.data.store.software import software_versions
from accdistill_jax.data.store.split import SplitRule
from accdistill_jax.data.store.store import Store
from accdistill_jax.errors import UserError
from accdistill_jax.storage.folder import open_folder

SEVERAL = "several"  # source of a store whose parts have different ones
_ALIKE = ("format_version", "preprocess", "rate_hz", "segment_s", "samples", "channels", "units")
_FACTS = ("age_years", "sex", "height_m", "weight_kg")


def merge_stores(
    paths: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    *,
    split: SplitRule | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Store:
    """Merges stores, see the module. Their segments follow each other in the order of `paths`.

    Args:
        paths: folders or URLs of complete stores. A store of parts stands for its parts.
        out: folder or URL of the new store: local if the parts are, or in their bucket.
        split: splits the participants anew; None keeps the split of each part.
        overwrite: replace a complete store at `out`.
        say: called with a line before a store is read whole, and if the merged store exists already.

    Returns:
        The new store. If the same merge is already complete, it is opened and nothing else is done.

    Raises:
        UserError: stores that do not fit together, another store at `out`, or another process that makes a store there.
    """
    with exclusive_store(out):
        return merge_exclusively(paths, out, split=split, overwrite=overwrite, say=say)


def merge_exclusively(
    paths: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    *,
    split: SplitRule | None,
    overwrite: bool,
    say: Callable[[str], None],
) -> Store:
    """`merge_stores` for a caller that holds the lock of the new store (`exclusive_store`)."""
    stores = [Store.open(path) for path in paths]
    target = open_folder(out)
    refuse_part_as_target(target.path, stores)
    parts = [part for store in stores for part in _parts(store, target.path)]
    fingerprints = [part["fingerprint"] for part in parts]
    if len(set(fingerprints)) < len(fingerprints):
        raise UserError("a store was given twice, by itself or as a part of another one; give each store once")
    for other in stores[1:]:
        _refuse_other_settings(stores[0], other)
    refuse_shorter_ids([(store.path, store.participants["participant"].to_pylist()) for store in stores])
    participants = _participants(stores, split)
    rule = _split_of(stores, participants) if split is None else split.to_json()
    existing = read_manifest(out)
    if existing is not None and not overwrite:
        if has_parts(existing) and existing["parts"] == parts and existing["split"] == rule:
            say(f"{target.path} was already complete and is left as it is")
            return Store.open(out)
        raise UserError(f"{target.path}: another store is already there; choose another folder, or --overwrite")
    refuse_other_content(target)
    hashes = np.concatenate([store_hashes(store, say=say) for store in stores])
    _refuse_repeated(stores, hashes)
    segments = _segments(stores)
    people = [person["participant_id"] for person in participants]
    assigned = _assigned(rule, stores) if split is None else split.assign(people)
    table = tables.participant_table(participants, split=assigned, devices=tables.devices_of(segments))

    target.remove(MANIFEST)  # so that no manifest names files that are being replaced
    added = any(part["path"] == ADDED for part in parts)
    target.remove_ours(lambda name: is_store_file(name) and not (added and name.startswith(f"{ADDED}/")))
    files = {}
    for name, content in ((SEGMENTS, tables.to_parquet(segments)), (PARTICIPANTS, tables.to_parquet(table))):
        target.write(name, content)
        files[name] = {"bytes": len(content), "sha256": checksum(content)}
    manifest = _manifest(stores, parts, files) | {"split": rule}
    manifest["fingerprint"] = manifest_fingerprint(manifest)
    target.write(CONTENT, encode_hashes(hashes, fingerprint=manifest["fingerprint"]))
    target.write(MANIFEST, json_bytes(manifest))
    return Store.open(out)


def refuse_part_as_target(target: str, stores: Sequence[Store]) -> None:
    """Raises UserError if a new store at `target` would replace one of these stores or a part of them, also through a link."""
    kept = {real_path(path) for store in stores for path in (store.path, *store.parts)}
    if real_path(target) in kept:
        raise UserError(f"{target}: the new store cannot take the place of a part; choose another --out")


def _parts(store: Store, target: str) -> list[dict]:
    if not store.parts:
        entry = {"fingerprint": store.fingerprint, "segments": store.num_segments}
        return [{"path": relative_path(target, store.path)} | entry]
    return [
        part | {"path": relative_path(target, path)}
        for part, path in zip(store.manifest["parts"], store.parts, strict=True)
    ]


def _refuse_other_settings(first: Store, other: Store) -> None:
    a, b = ({key: store.manifest[key] for key in _ALIKE} for store in (first, other))
    if a != b:
        raise UserError(
            f"{first.path} and {other.path} were prepared differently ({difference(a, b)}, where 'now' is the second); "
            "prepare one of them again with the other's settings, or give both to a run without a merge (data.stores)"
        )


def _participants(stores: Sequence[Store], split: SplitRule | None) -> list[dict]:
    """Properties of the participants of all stores, as `tables.participant_table` takes them."""
    people, seen = [], {}
    for store in stores:
        for row in store.participants.to_pylist():
            name = row["participant"]
            where, held = seen.setdefault(name, (store.path, row["split"]))
            if held != row["split"] and split is None:
                raise UserError(
                    f"participant {name} is in {held} of {where} and in {row['split']} of {store.path}; "
                    "split the merged store anew with a --split-file that lists every participant"
                )
            known = {key: value for key, value in row.items() if value is not None}
            people.append(
                {"participant_id": name}
                | {key: known[key] for key in _FACTS if key in known}
                | {"conditions": _named(known, "condition_"), "labels": _named(known, LABEL_PREFIX)}
            )
    if split is not None:
        split.assign(seen)
    return people


def _named(values: dict, prefix: str) -> dict:
    return {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}


def _split_of(stores: Sequence[Store], participants: Sequence[dict]) -> dict:
    """The split of the parts if it is the same rule, else their assignment of each participant."""
    rules = [store.manifest["split"] for store in stores]
    if all(rule == rules[0] for rule in rules):
        return rules[0]
    assigned = _assigned({"assignment": None}, stores)
    return SplitRule(
        assignment={person["participant_id"]: assigned[person["participant_id"]] for person in participants}
    ).to_json()


def _assigned(rule: dict, stores: Sequence[Store]) -> dict[str, str]:
    if rule.get("assignment"):
        return rule["assignment"]
    columns = [(store.participants["participant"], store.participants["split"]) for store in stores]
    return {n: s for names, splits in columns for n, s in zip(names.to_pylist(), splits.to_pylist(), strict=True)}


def _refuse_repeated(stores: Sequence[Store], hashes: np.ndarray) -> None:
    """Raises UserError if two recordings share minutes, see `repeated.refuse_repeated`."""
    names, people, alone, owner = [], [], [], []
    for store in stores:
        persons, person = store.segments.codes("participant")
        labels, label = store.segments.codes("recording") if "recording" in store.segments else ([""], 0 * person)
        pairs, number = np.unique(person * np.int64(len(labels)) + label, return_inverse=True)
        owner.append(number.astype(np.int32) + len(names))
        names += [f"{labels[pair % len(labels)]} of {store.path}" for pair in pairs.tolist()]
        people += [persons[pair // len(labels)] for pair in pairs.tolist()]
        alone += ["ppg" not in store.signals] * len(pairs)
    refuse_shared_content(
        Recordings(names, people, np.array(alone, bool)),
        hashes,
        owner=np.concatenate(owner),
        advice="prepare one of the stores again without the repeated recordings",
    )


def _segments(stores: Sequence[Store]) -> pa.Table:
    names = list(dict.fromkeys(name for store in stores for name in store.segments))
    return pa.table({name: _column(stores, name) for name in names})


def _column(stores: Sequence[Store], name: str) -> pa.Array:
    held = [store for store in stores if name in store.segments and not _is_unknown(store, name)]
    texts = [store.segments.is_text(name) for store in held or stores if name in store.segments]
    if len(set(texts)) > 1:
        first, second = held[texts.index(True)], held[texts.index(False)]
        label = name.removeprefix(LABEL_PREFIX)
        raise UserError(
            f"{label} is a text in {first.path} and a number in {second.path}; write it alike and prepare again"
        )
    if texts[0]:
        coded = [
            store.segments.codes(name) if store in held else ([""], np.zeros(store.num_segments, np.int32))
            for store in stores
        ]
        return tables.text_column([unique for unique, _ in coded], [codes for _, codes in coded])
    values = []
    for store in stores:
        if name in store.segments and not store.segments.is_text(name):
            values.append(store.segments[name])
        elif all(other.segments[name].dtype.kind == "f" for other in held):
            values.append(np.full(store.num_segments, np.nan, np.float32))
        else:
            raise UserError(f"{store.path}: column {name} is missing; prepare this store again with this version")
    return pa.array(np.concatenate(values))


def _is_unknown(store: Store, name: str) -> bool:
    """True if a user's label is unknown in all segments; its column may then be of the wrong type."""
    if not name.startswith(LABEL_PREFIX):
        return False
    if store.segments.is_text(name):
        return not any(store.segments.codes(name)[0])
    return not np.isfinite(store.segments[name]).any()


def _manifest(stores: Sequence[Store], parts: list[dict], files: dict) -> dict:
    manifests = [store.manifest for store in stores]
    first = manifests[0]
    one_source = all(manifest[key] == first[key] for manifest in manifests for key in ("source", "source_settings"))
    merged = {key: first[key] for key in _ALIKE} | {
        "format": FORMAT_OF_PARTS,
        "format_version": FORMAT_VERSION,
        "num_segments": sum(store.num_segments for store in stores),
        "source": first["source"] if one_source else SEVERAL,
        "source_settings": first["source_settings"] if one_source else {},
        "counts": _counts([manifest["counts"] for manifest in manifests]),
        "prepared": [entry for manifest in manifests for entry in manifest["prepared"]],
        "skipped": _joined([manifest["skipped"] for manifest in manifests]),
        "files": files,
        "parts": parts,
        "software": software_versions(),
    }
    not_read = _joined([manifest.get("not_read") or {} for manifest in manifests])
    return merged | ({"not_read": not_read} if not_read else {})


def _joined(texts: Sequence[dict[str, str]]) -> dict[str, str]:
    return {key: text for held in texts for key, text in held.items()}


def _counts(counts: Sequence[dict]) -> dict:
    names = sorted({name for held in counts for name in held["participants"]})
    return {
        "total": _sum([held["total"] for held in counts]),
        "participants": {
            name: _sum([held["participants"][name] for held in counts if name in held["participants"]])
            for name in names
        },
    }


def _sum(entries: Sequence[dict]) -> dict:
    total = {key: sum(entry[key] for entry in entries) for key in ("examined", "kept")}
    for key in ("rejected", "mended_stamps"):
        if any(key in entry for entry in entries):
            summed = Counter()
            for entry in entries:
                summed.update(entry.get(key, {}))
            total[key] = dict(sorted(summed.items()))
    return total
