"""Writes a store unit by unit, so that an interrupted preparation continues.

A unit is a recording or a synthetic participant. Its quantised segments are staged as one file in
`<store>.partial/units/`. `commit` streams the staged units in a given order into `<store>.partial/store/`, and renames this
folder to its final name (an object store has no rename: there the manifest is written last). The bytes of a store depend on
its units and their order alone.
"""

import contextlib
import functools
import json
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from accdistill_jax.data.preprocessing.polarity import Vote, vote_of
from accdistill_jax.data.preprocessing.segments import SegmentBatch
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.store import tables
from accdistill_jax.data.store.checks import held_signals
from accdistill_jax.data.store.content import encode_hashes
from accdistill_jax.data.store.exclusive import exclusive_store
from accdistill_jax.data.store.manifest import (
    CONTENT,
    FORMAT,
    MANIFEST,
    PARTICIPANTS,
    SEGMENTS,
    checksum,
    manifest_fingerprint,
    partial_path,
    read_manifest,
)
from accdistill_jax.data.store.remarks import why_rejected
from accdistill_jax.data.store.removal import (
    REQUEST,
    is_staged_file,
    is_store_file,
    refuse_other_content,
)
from accdistill_jax.data.store.repeated import refuse_repeated
from accdistill_jax.data.store.request import difference, json_bytes, make_request
from accdistill_jax.data.store.shards import ArrayFiles, ArrayLayout
from accdistill_jax.data.store.software import software_versions
from accdistill_jax.data.store.split import SplitRule
from accdistill_jax.data.store.store import Store
from accdistill_jax.data.store.units import Unit, common_channels, decode_unit, encode_unit, same_unit, unit_file
from accdistill_jax.errors import UserError
from accdistill_jax.files import free_name
from accdistill_jax.storage.checked_npz import DamagedNpz
from accdistill_jax.storage.folder import no_space_message, open_folder

_log = logging.getLogger(__name__)
_STORE = "store"


class UnfitUnit(UserError):
    """The segments of one unit cannot be stored. Other units are not affected."""


class StoreWriter:
    """Stages units and assembles them into a store. It is picklable: each worker calls `add` on a copy.

    Args:
        path: local folder or URL of the new store.
        settings: preprocessing settings.
        source: name of the source of the recordings, for the manifest.
        source_settings: options of the source that JSON can store. Units staged with other options are not used.
        split: rule that splits the participants.
        overwrite: replace a complete store at `path`, and discard staged units of other settings.

    Attributes:
        path: folder or URL of the new store.
        staging: folder of the staged units.
        split: rule that splits the participants.
        settings: preprocessing settings.

    Raises:
        UserError: there is a complete store at `path`, or units of other settings are staged.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        settings: PreprocessSettings,
        source: str,
        source_settings: Mapping | None = None,
        split: SplitRule | None = None,
        overwrite: bool = False,
    ):
        self._target = open_folder(path)
        self.staging = open_folder(partial_path(path))
        self._units = self.staging / "units"
        self.path = self._target.path
        self.split = split or SplitRule()
        self.settings = settings
        self._samples = round(settings.rate_hz * settings.segment_s)
        self._overwrite = overwrite
        self._request = make_request(settings, source=source, source_settings=source_settings)
        if not overwrite and read_manifest(path) is not None:
            raise UserError(f"{self.path}: a complete store is already there; choose another folder or overwrite it")
        refuse_other_content(self._target)
        with self.exclusive():
            pass

    def _claim_staging(self) -> None:
        content = self.staging.read(REQUEST)
        if content is not None:
            try:
                staged = json.loads(content)
            except (ValueError, RecursionError):
                staged = None
            if staged == self._request:
                return
            if not self._overwrite:
                raise UserError(
                    f"{self.staging.path}: an interrupted preparation with other settings is kept there "
                    f"({difference(staged, self._request)}); repeat its command to continue it, "
                    "or discard it with --overwrite or by deleting that folder"
                )
            self.staging.remove_ours(is_staged_file)
        self.staging.write(REQUEST, json_bytes(self._request))

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Context in which no other process prepares the same local store. It records the settings in the staging folder.

        Raises:
            UserError: another process prepares the store, or units of other settings are staged.
        """
        with exclusive_store(self.path):
            self._claim_staging()
            if self.staging.is_local:
                self.staging.remove_leftovers()
            yield

    def has(self, unit_id: str) -> bool:
        """True if a unit is staged."""
        return bool(self._units.sizes([unit_file(unit_id)]))

    def staged(self, unit_ids: Sequence[str]) -> set[str]:
        """The ids of the units that are staged; one listing of an object store."""
        files = {unit_file(unit_id): unit_id for unit_id in unit_ids}
        return {files[name] for name in self._units.sizes(list(files))}

    def vote(self, unit_id: str) -> Vote | None:
        """Vote of a staged recording on its PPG's polarity; None if it was too short for one.

        Raises:
            UserError: the unit is missing or damaged.
        """
        return vote_of(self._load(unit_id, signals=False).about["notes"])

    def add(self, unit_id: str, batch: SegmentBatch, *, signals: Mapping[str, int] | None = None) -> None:
        """Quantises and stages the segments of a unit, atomically.

        Args:
            unit_id: unique name of the unit.
            batch: ppg [segments, samples, channels] and accel [segments, samples, 3] in g, float32. It may have no segments, and
                no PPG channels.
            signals: signal name -> hash of the recording's signal. With them `commit` finds the same recording under another
                name.

        Raises:
            UnfitUnit: wrong shapes or non-finite samples.
            UserError: a full disk.
        """
        try:
            content = encode_unit(unit_id, batch, samples=self._samples, signals=signals)
        except UserError as error:
            raise UnfitUnit(str(error)) from error
        # Not synced to the disk: after a power failure the checksum reveals a damaged unit, which is then prepared again.
        self._units.write(unit_file(unit_id), content, durable=False)

    def commit(
        self,
        order: Sequence[str],
        *,
        skipped: Mapping[str, str] | None = None,
        not_read: Mapping[str, str] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Store:
        """Assembles the staged units into the complete store and removes the staging folder.

        The disk needs space for the staged units and the finished store together.

        Args:
            order: unit ids in the order of their segments in the store.
            skipped: unit id -> reason, for units that are left out; the manifest lists them.
            not_read: path -> reason, for files and folders that belong to no unit; the manifest lists them.
            progress: called with (segments written, all segments).

        Raises:
            UserError: a unit is missing or damaged, two units have the same signal, no segment was kept, channels differ, the
                split file does not fit, or the disk is full. Staged units stay, except if no segment was kept.
        """
        order = list(order)
        if len(set(order)) != len(order):
            raise ValueError(f"{self.path}: unit ids must be unique")
        staged = self.staged(order)
        missing = [unit_id for unit_id in order if unit_id not in staged]
        if missing:
            raise UserError(
                f"{self.path}: {len(missing)} of {len(order)} units are not prepared yet, the first is {missing[0]}"
            )
        with self._damage_first(order):
            units = [self._load(unit_id, signals=False) for unit_id in order]
            abouts = [unit.about for unit in units]
            counts = tables.counts(abouts)
            total = counts["total"]["kept"]
            if not total:
                self._check_whole(order)
                self.staging.remove_ours(is_staged_file)
                reasons = ", ".join(
                    f"{reason} {count}" for reason, count in counts["total"]["rejected"].items() if count
                )
                raise UserError(
                    f"{self.path}: no segment was kept of {counts['total']['examined']} examined "
                    f"(rejected: {reasons or 'none'}); loosen the thresholds or add recordings: "
                    f"{why_rejected(counts['total']['rejected'], self._request['preprocess'])}"
                )
            channels = common_channels(abouts)
            assigned = self.split.assign(about["participant"]["participant_id"] for about in abouts)
            segments = tables.segment_table([unit.columns for unit in units])
            participants = tables.participant_table(
                [about["participant"] for about in abouts], split=assigned, devices=tables.devices_of(segments)
            )
            refuse_repeated(units)

        out = (self.staging / _STORE) if self._target.is_local else self._target
        out.remove_ours(is_store_file)
        needed, free = 2 * total * self._samples * sum(map(len, channels.values())), out.free_bytes()
        if free is not None and free < needed:
            raise UserError(no_space_message(out.path, needed - free))
        files: dict[str, dict] = {}

        def put(name: str, content: bytes | memoryview) -> None:
            out.write(name, content)
            files[name] = {"bytes": len(content), "sha256": checksum(content)}

        put("zarr.json", json_bytes({"zarr_format": 3, "node_type": "group", "attributes": {}}))
        put(SEGMENTS, tables.to_parquet(segments))
        put(PARTICIPANTS, tables.to_parquet(participants))
        with ArrayFiles(_layouts(total, self._samples, channels), put) as arrays:
            done = 0
            for before, unit in zip(units, _one_ahead(functools.partial(self._load, signals=True), order), strict=True):
                if not same_unit(before, unit):
                    raise self._damaged(before.about["unit"])
                for name, rows in unit.arrays.items():
                    arrays.push(name, rows)
                done += unit.about["segments"]
                if progress is not None:
                    progress(done, total)
        manifest = {
            "format": FORMAT,
            "num_segments": total,
            "samples": self._samples,
            "rate_hz": float(self.settings.rate_hz),
            "segment_s": float(self.settings.segment_s),
            "channels": channels,
            "units": tables.UNITS,
            **self._request,
            "split": self.split.to_json(),
            "counts": counts,
            "prepared": [
                {
                    key: about[key]
                    for key in ("unit", "segments", "examined", "rejected", "notes", "mended_stamps")
                    if key in about
                }
                for about in abouts
            ],
            "skipped": dict(skipped or {}),
            "files": dict(sorted(files.items())),
            "software": software_versions(),
        }
        if not_read:
            manifest["not_read"] = dict(not_read)
        manifest["fingerprint"] = manifest_fingerprint(manifest)
        hashes = np.concatenate([unit.content for unit in units])
        out.write(CONTENT, encode_hashes(hashes, fingerprint=manifest["fingerprint"]))
        out.write(MANIFEST, json_bytes(manifest))
        if self._target.is_local:
            self._move_into_place(out)
        self.staging.remove_ours(is_staged_file)
        return Store.open(self.path)

    def _load(self, unit_id: str, *, signals: bool) -> Unit:
        name = unit_file(unit_id)
        file = self._units.open(name)
        if file is None:
            raise UserError(f"{self._units.where(name)}: the staged unit {unit_id} is missing; run again")
        try:
            unit = decode_unit(file, signals=signals)
        except DamagedNpz as error:
            raise self._damaged(unit_id) from error
        if unit.about["unit"] != unit_id:
            raise self._damaged(unit_id)
        return unit

    def _damaged(self, unit_id: str) -> UserError:
        """Removes a damaged unit; returns the error to raise."""
        name = unit_file(unit_id)
        self._units.remove(name)
        return UserError(
            f"{self._units.where(name)}: the staged unit {unit_id} was damaged and is removed; "
            "run the same command again to prepare it anew"
        )

    @contextlib.contextmanager
    def _damage_first(self, order: Sequence[str]) -> Iterator[None]:
        """Context in which an error is reported as the damage of a unit if a unit is damaged."""
        try:
            yield
        except UserError:
            self._check_whole(order)
            raise

    def _check_whole(self, order: Sequence[str]) -> None:
        staged = self.staged(order)
        for unit_id in order:
            if unit_id in staged:
                self._load(unit_id, signals=True)

    def _move_into_place(self, out) -> None:
        """Renames the finished folder. An older store is moved aside first, and removed afterwards."""
        aside = open_folder(self.path + ".replaced")
        if os.path.lexists(aside.path) and not aside.remove_ours(is_store_file):
            aside = open_folder(free_name(Path(aside.path)))
        try:
            if os.path.isdir(self.path) and os.listdir(self.path):
                if not self._overwrite:
                    raise UserError(f"{self.path}: the folder is not empty; choose another one")
                os.rename(self.path, aside.path)
            elif os.path.exists(self.path):
                os.rmdir(self.path)
            os.rename(out.path, self.path)
            sync_folder(os.path.dirname(self.path))
        except OSError as error:
            raise UserError(
                f"{self.path}: the finished store cannot be moved there ({error.strerror}); it lies in {out.path}"
            ) from error
        if os.path.lexists(aside.path) and not aside.remove_ours(is_store_file):
            _log.warning("%s: what was no part of the store that was replaced is in %s now", self.path, aside.path)


def sync_folder(path: str) -> None:
    """Syncs a local folder, so that a rename in it survives a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _one_ahead(function: Callable, items: Sequence) -> Iterator:
    """Results of the function for each item. The next result is computed while the caller uses the current one."""
    with ThreadPoolExecutor(1) as pool:
        pending: deque[Future] = deque()
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) == 2:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _layouts(total: int, samples: int, channels: Mapping[str, Sequence[str]]) -> dict[str, ArrayLayout]:
    layouts = {}
    for name in held_signals(channels):
        unit, count = tables.UNITS[name], len(channels[name])
        layouts[name] = ArrayLayout.signal((total, samples, count), unit=unit)
        for part in ("scale", "offset"):
            layouts[f"{name}_{part}"] = ArrayLayout.small((total, count), unit=unit)
    return layouts
