"""Stores that an encoder was trained on, as its export names them, and the people of a store whom it has seen.

An export keeps the fingerprint of each training store. For a store of parts it also keeps the fingerprint of each part, so the people are
known again in a part, in another merge of it, and in an earlier or later version.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from accdistill_jax.data.store.store import Store

HELD_OUT = "-held-out-"
"""Between the fingerprint of a store and the marks of its test participants, where its own table has another split."""


def held_out_mark(participant: str) -> str:
    """Mark of a test participant behind the fingerprint of a store."""
    return hashlib.sha256(participant.encode()).hexdigest()[:12]


def with_held_out(fingerprint: str, tested: Iterable[str]) -> str:
    """Fingerprint of a store with the marks of its test participants, whom `people_seen` then takes for the only ones not seen."""
    return f"{fingerprint}{HELD_OUT}{'.'.join(sorted(map(held_out_mark, tested)))}"


def trained_on(stores: Sequence[Store]) -> str:
    """Fingerprints of training stores and of their parts, joined by "+", for `people_seen`."""
    return joined(*(name for store in stores for name in (store.fingerprint, *_parts(store))))


def joined(*names: str) -> str:
    """Several results of `trained_on` as one; a store stands there once, and "" adds nothing."""
    return "+".join(dict.fromkeys(name for text in names for name in text.split("+") if name))


def said_by(meta: Mapping[str, Any]) -> str:
    """The stores that an export's encoder learned from; an export of an earlier version does not name their parts."""
    first = meta.get("initial", {}).get("data", "")
    return meta.get("trained_on") or joined(meta.get("fingerprints", {}).get("data", ""), first)


def _parts(store: Store) -> list[str]:
    """Fingerprints of the parts, with the test participants of the store, whose split need not be that of the part."""
    if not store.parts:
        return []
    people, person = store.segments.codes("participant")
    splits = dict(zip(*(store.participants[key].to_pylist() for key in ("participant", "split")), strict=True))
    names, first = [], 0
    for part in store.manifest["parts"]:
        within = np.unique(person[first : first + part["segments"]]).tolist()
        names.append(with_held_out(part["fingerprint"], (people[k] for k in within if splits[people[k]] == "test")))
        first += part["segments"]
    return names


def people_seen(store: Store, trained: str) -> set[str]:
    """People of a store whom an encoder was trained on.

    Args:
        store: the store. Of a store of parts, each part is compared, too.
        trained: fingerprints of the stores that the encoder was trained on, and of their parts, from `trained_on`.
    """
    table: Mapping[str, list] = store.participants.to_pydict()
    present = set(store.segments.codes("participant")[0])
    seen: set[str] = set()
    for fingerprint in trained.split("+"):
        name, changed, marks = fingerprint.partition(HELD_OUT)
        if name == store.manifest["fingerprint"]:
            tested = set(marks.split("."))
            seen.update(
                who
                for who, split in zip(table["participant"], table["split"], strict=True)
                if who in present and (held_out_mark(who) not in tested if changed else split != "test")
            )
    return seen.union(*(people_seen(Store.open(part), trained) for part in store.parts))
