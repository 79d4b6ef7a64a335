"""Request of a store: all settings that determine the content of its units. It is compared with staged units and stores."""

import json
import os
from collections.abc import Mapping, Sequence

from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.store.manifest import FORMAT_VERSION, read_manifest
from accdistill_jax.data.store.removal import discard_staging
from accdistill_jax.data.store.split import SplitRule
from accdistill_jax.data.store.store import Store
from accdistill_jax.errors import UserError


def make_request(settings: PreprocessSettings, *, source: str, source_settings: Mapping | None = None) -> dict:
    """All settings that determine the content of units, as JSON values. Equal requests give equal units."""
    request = {
        "format_version": FORMAT_VERSION,
        "source": source,
        "source_settings": dict(source_settings or {}),
        "preprocess": settings.to_json(measured=source != "synthetic"),
    }
    return json.loads(json_bytes(request))


def existing_store(
    path: str | os.PathLike,
    *,
    settings: PreprocessSettings,
    source: str,
    units: Sequence[str],
    source_settings: Mapping | None = None,
    split: SplitRule | None = None,
) -> Store | None:
    """The complete store at `path` if it equals the store that these arguments would make; None if there is no store.

    Raises:
        UserError: the store has other settings, units or another split; the message names the difference.
    """
    manifest = read_manifest(path)
    if manifest is None:
        return None
    wanted = make_request(settings, source=source, source_settings=source_settings)
    wanted["split"] = json.loads(json_bytes((split or SplitRule()).to_json()))
    stored = {key: manifest[key] for key in wanted}
    store = Store.open(path)
    if stored != wanted:
        reason = f"was prepared with other settings ({difference(stored, wanted)})"
    else:
        known = {entry["unit"] for entry in manifest["prepared"]} | manifest["skipped"].keys()
        added, missing = sorted(set(units) - known), sorted(known - set(units))
        if not added and not missing:
            discard_staging(path)
            return store
        reason = (
            "was prepared from other recordings ("
            + ", ".join(
                f"{kind}: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
                for kind, names in (("new", added), ("gone", missing))
                if names
            )
            + ")"
        )
    raise UserError(
        f"{store.path}: the store there {reason}; choose another folder, or remove this one (prepare: --overwrite)"
    )


def difference(old: dict | None, new: dict, *, prefix: str = "") -> str:
    """Names and values of the different settings, in words."""
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


def json_bytes(value: object) -> bytes:
    """Indented JSON with sorted keys, ending in a newline."""
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()
