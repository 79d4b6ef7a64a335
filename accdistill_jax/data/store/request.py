"""The request of a store: everything that decides its units' content; compared with what is staged or stored already."""

import json
import os
from collections.abc import Mapping, Sequence

from accdistill_jax.data.store.manifest import FORMAT_VERSION, read_manifest
from accdistill_jax.data.store.removal import discard_staging
from accdistill_jax.data.store.split import SplitRule
from accdistill_jax.data.store.store import Store
from accdistill_jax.errors import UserError


def make_request(settings, *, source: str, source_settings: Mapping | None = None) -> dict:
    """Everything that decides the content of units, as plain JSON values; staged units and stores of an equal request can be used."""
    request = {
        "format_version": FORMAT_VERSION,
        "source": source,
        "source_settings": dict(source_settings or {}),
        "preprocess": settings.to_json(measured=source != "synthetic"),
    }
    return json.loads(to_json(request))


def existing_store(
    path: str | os.PathLike,
    *,
    settings,
    source: str,
    units: Sequence[str],
    source_settings: Mapping | None = None,
    split: SplitRule | None = None,
) -> Store | None:
    """The complete store at `path`, if there is one and it is the one that these arguments would make.

    Raises:
        UserError: a store of other settings, units or split is there, naming the difference.
    """
    manifest = read_manifest(path)
    if manifest is None:
        return None
    wanted = make_request(settings, source=source, source_settings=source_settings)
    wanted["split"] = json.loads(to_json((split or SplitRule()).to_json()))
    stored = {key: manifest[key] for key in wanted}
    store = Store.open(path)
    if stored != wanted:
        reason = f"was prepared with other settings ({difference(stored, wanted)})"
    else:
        known = {entry["unit"] for entry in manifest["prepared"]} | manifest["skipped"].keys()
        added, gone = sorted(set(units) - known), sorted(known - set(units))
        if not added and not gone:
            discard_staging(path)
            return store
        reason = (
            "was prepared from other recordings ("
            + ", ".join(
                f"{what}: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
                for what, names in (("new", added), ("gone", gone))
                if names
            )
            + ")"
        )
    raise UserError(
        f"{store.path}: the store there {reason}; choose another folder, or remove this one (prepare: --overwrite)"
    )


def difference(old: dict | None, new: dict, *, prefix: str = "") -> str:
    """The settings that differ, in words."""
    if not isinstance(old, dict):
        return "unreadable request"
    differing = []
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if a == b:
            continue
        if isinstance(a, dict) and isinstance(b, dict):
            differing.append(difference(a, b, prefix=f"{prefix}{key}."))
        else:
            differing.append(f"{prefix}{key}: {a} there, {b} now")
    return ", ".join(differing)


def to_json(value) -> bytes:
    """Indented JSON with sorted keys, ending in a newline."""
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()
