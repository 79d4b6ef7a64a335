"""Adds recordings to a finished store as a new version: only the new recordings are prepared, and no segment is copied."""

import os
from collections.abc import Callable, Mapping, Sequence

from accdistill_jax.data import recordings
from accdistill_jax.data.prepare.people import ask_for_people
from accdistill_jax.data.prepare.preparation import PreparationSettings, find_recordings, prepare_recordings
from accdistill_jax.data.preprocessing.polarity import Vote, contradictions, vote_of
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.store.exclusive import exclusive_store
from accdistill_jax.data.store.manifest import ADDED, has_parts, read_manifest
from accdistill_jax.data.store.merge import merge_exclusively, refuse_part_as_target
from accdistill_jax.data.store.shorter_ids import refuse_shorter_ids
from accdistill_jax.data.store.split import SplitRule
from accdistill_jax.data.store.store import Store
from accdistill_jax.errors import UserError
from accdistill_jax.storage.folder import open_folder


def append_recordings(
    base: str | os.PathLike,
    roots: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    *,
    split: SplitRule | None = None,
    preparation: PreparationSettings | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Store:
    """Prepares the recordings that a store does not have, and merges both into a new version of the store.

    Reader, its options, preprocessing and split rule are those of the store, and a device keeps the polarity that its PPG has there
    (`polarity.decide`). A recording that the store has prepared or left out is recognised by its id. The new recordings become a
    store in the folder `added` of the new version; the base stays as it is, and must stay where it is. The same call after an
    interruption continues.

    Args:
        base: complete store.
        roots: folders or files with recordings; they may hold those of the store, too.
        out: folder or URL of the new version.
        split: splits the participants anew; None keeps the base's rule.
        preparation: workers, overwriting, bad recordings and progress bars.
        report: receives lines about recordings and stores that exist already.

    Raises:
        UserError: the base was not made by one reader, nothing is new, the base has ids of people without study and site, another
            process makes a store at `out`, or an error of `ask_for_people`, `prepare_recordings` or `merge_stores`.
    """
    preparation = preparation or PreparationSettings()
    store = Store.open(base)
    manifest, added = store.manifest, open_folder(out) / ADDED
    for target in (open_folder(out).path, added.path):
        refuse_part_as_target(target, [store])
    if manifest["source"] not in recordings.names():
        raise UserError(
            f"{os.fspath(base)}: the store was not made by one reader of recordings (source {manifest['source']!r}); prepare the "
            "new recordings as a store of their own, and merge both"
        )
    options = {
        key: tuple(value) if isinstance(value, list) else value for key, value in manifest["source_settings"].items()
    }
    found = find_recordings(manifest["source"], roots, **options)
    known = {entry["unit"] for entry in manifest["prepared"]} | manifest["skipped"].keys()
    new = [source for source in found if source.recording_id not in known]
    if not new:
        raise UserError(
            f"{' '.join(str(root) for root in roots)}: all {len(found)} recordings are in {os.fspath(base)} already (by their ids); "
            "give new recordings"
        )
    if len(new) < len(found):
        report(f"{len(found) - len(new)} of {len(found)} recordings are in {os.fspath(base)} already, by their ids")
    people = [source.participant_id for source in new]
    refuse_shorter_ids([("the store", manifest["counts"]["participants"]), ("the new recordings", people)])
    ask_for_people(found.only(new), known=manifest["counts"]["participants"])
    rule = (split or SplitRule.from_json(manifest["split"])).among(people)
    with exclusive_store(out):
        complete = read_manifest(out)
        if complete is not None and not preparation.overwrite and not has_parts(complete):
            raise UserError(f"{os.fspath(out)}: another store is already there; choose another folder, or --overwrite")
        chosen = found.only(new)
        chosen.earlier = _votes(store)
        new_store = prepare_recordings(
            chosen,
            added.path,
            settings=PreprocessSettings.from_json(manifest["preprocess"]),
            split=rule,
            preparation=preparation,
            report=report,
        )
        channels = ", ".join(store.channels["ppg"])
        for line in contradictions(_votes(new_store), earlier=chosen.earlier):
            report(f"warning: PPG polarity ({channels}), {line}")
        return merge_exclusively([base, added.path], out, split=split, overwrite=preparation.overwrite, say=report)


def _votes(store: Store) -> Mapping[str, Vote]:
    """Votes of a store's recordings on the polarity of their PPG; none of those that had none."""
    prepared = store.manifest["prepared"]
    return {entry["unit"]: vote for entry in prepared if (vote := vote_of(entry.get("notes"))) is not None}
