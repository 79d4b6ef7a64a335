"""From recordings to a store: loads, preprocesses and stages each recording, then commits the store."""

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

from accdistill_jax.data import recordings
from accdistill_jax.data.prepare.addresses import at_address, find_at
from accdistill_jax.data.prepare.batches import StoreJob
from accdistill_jax.data.prepare.beam_engine import run_with_beam
from accdistill_jax.data.prepare.people import ask_for_people
from accdistill_jax.data.prepare.staging import (
    apply_pooled_polarity,
    process_died,
    raise_bad,
    stage_recording,
)
from accdistill_jax.data.prepare.workers import check_workers, run_all
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.recording import RecordingSource
from accdistill_jax.data.store.request import existing_store
from accdistill_jax.data.store.split import SplitRule
from accdistill_jax.data.store.store import Store
from accdistill_jax.data.store.writer import StoreWriter
from accdistill_jax.errors import UserError
from accdistill_jax.runtime.progress import progress_bar
from accdistill_jax.text import readable

_CHANGED = "if recordings have changed since, prepare with --overwrite"


def _cores() -> int:
    return os.cpu_count() or 1


@dataclasses.dataclass(frozen=True)
class PreparationSettings:
    """Settings of a preparation. They are flags of the command line, too.

    Attributes:
        workers: number of worker processes; the result does not depend on it, to the byte.
        overwrite: replace what exists at the target.
        skip_bad: leave out recordings that cannot be read (the summary lists them) instead of stopping.
        quiet: print no progress bars.
        engine: local prepares in processes of this machine; beam runs an Apache Beam pipeline, in which Beam's runner decides on workers.
        beam_options: Beam's pipeline options, in one text; without --runner in it, Beam runs in this process.

    Raises:
        UserError: fewer than one worker, or Beam's options without Beam.
    """

    workers: int = dataclasses.field(default_factory=_cores)
    overwrite: bool = False
    skip_bad: bool = False
    quiet: bool = False
    engine: Literal["local", "beam"] = "local"
    beam_options: str = ""

    def __post_init__(self) -> None:
        check_workers(self.workers)
        if self.beam_options and self.engine != "beam":
            raise UserError("--beam-options have an effect with --engine=beam only")


def find_recordings(reader: str, roots: Sequence[str | os.PathLike], **options) -> recordings.Found:
    """Finds the recordings below all roots.

    Raises:
        UserError: a root holds no recording, two roots hold a recording of the same id, or a root lies inside another one.
    """
    found: dict[str, tuple[RecordingSource, object]] = {}
    not_read: dict[str, str] = {}
    claimed: set[str] = set()
    can_crash, is_local = False, True
    for root in roots:
        below = (
            find_at(reader, str(root), **options)
            if at_address(root)
            else recordings.find(reader, Path(root), **options)
        )
        can_crash, is_local = below.can_crash, is_local and below.is_local
        claimed |= below.claimed
        for path, reason in below.not_read.items():
            not_read[path if len(roots) == 1 else os.path.join(readable(os.fspath(root)), path)] = reason
        for source in below:
            if source.recording_id in found:
                raise UserError(
                    f"recording {source.recording_id!r} is both below {found[source.recording_id][1]} "
                    f"and below {root}; rename one, or give one root only"
                )
            found[source.recording_id] = (source, root)
    _refuse_nested(roots)
    merged = recordings.Found(
        [source for source, _ in found.values()],
        reader=reader,
        options=options,
        not_read=not_read,
        can_crash=can_crash,
        claimed=claimed,
    )
    merged.is_local = is_local
    return merged


def _refuse_nested(roots: Sequence[str | os.PathLike]) -> None:
    """Raises UserError for a root inside another one: its recordings would be read twice."""
    real = [PurePosixPath(str(root)) if at_address(root) else Path(root).resolve() for root in roots]
    for inner, outer in itertools.permutations(range(len(real)), 2):
        if real[inner].is_relative_to(real[outer]):
            raise UserError(
                f"{roots[inner]} lies inside {roots[outer]}, so its recordings would be read twice; give only one of the two"
            )


def prepare_recordings(
    found: recordings.Found,
    out: str | os.PathLike,
    *,
    settings: PreprocessSettings,
    split: SplitRule | None = None,
    preparation: PreparationSettings | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Store:
    """Prepares recordings into a store; the same call after an interruption continues.

    The bytes of the store depend neither on the number of workers nor on interruptions. If the store of exactly these
    recordings and settings is already complete, it is opened and nothing else is done.

    Args:
        found: the recordings, of unique ids, with the name and the options of their reader.
        out: local folder or URL of the store.
        settings: of preprocessing.
        split: how participants are split.
        preparation: workers, overwriting, bad recordings and progress bars.
        report: receives a line about recordings that an earlier start prepared; they are kept without a check for changes.

    Raises:
        UserError: an error of `ask_for_people`, bad recordings (all are named, after the others were prepared and kept),
            recordings that hold the same signal, a different store at `out`, or a full disk.
    """
    preparation, split = preparation or PreparationSettings(), split or SplitRule()
    order = [source.recording_id for source in found]
    request = {"settings": settings, "source": found.reader, "source_settings": found.options, "split": split}
    if not preparation.overwrite:
        store = existing_store(out, units=order, **request)
        if store is not None:
            report(f"{store.path} was already complete and is left as it is; {_CHANGED}")
            return store
    ask_for_people(found, report=report)
    split.assign(source.participant_id for source in found)
    writer = StoreWriter(out, overwrite=preparation.overwrite, **request)
    if preparation.engine == "beam":
        job = StoreJob(writer, settings, skip_bad=preparation.skip_bad, can_crash=found.can_crash)
        with writer.exclusive():
            run_with_beam(job, found, options=preparation.beam_options)
        return Store.open(out)
    with writer.exclusive(), progress_bar(not preparation.quiet) as bar:
        staged = writer.staged(order)
        missing = [source for source in found if source.recording_id not in staged]
        kept = len(found) - len(missing)
        if kept:
            report(f"{kept} of {len(found)} recordings were prepared by an earlier start and are kept; {_CHANGED}")
        task = bar.add_task("preparing recordings", total=len(found), completed=kept)
        bad: dict[str, str] = {}
        stage = functools.partial(stage_recording, writer=writer, settings=settings, skip_bad=preparation.skip_bad)
        # A reader whose parser can crash runs in another process, even with one worker: this one survives and names the file.
        run = functools.partial(run_all, workers=preparation.workers, apart=found.can_crash, died=process_died)
        for source, problem in run(stage, missing):
            if problem is not None:
                bad[source.recording_id] = problem
            bar.advance(task)
        good = found.only(source for source in found if source.recording_id not in bad)
        for source, problem in apply_pooled_polarity(good, writer=writer, stage=stage, run=run):
            if problem is not None:
                bad[source.recording_id] = problem
        raise_bad(bad, of=len(found), skip_bad=preparation.skip_bad)
        task = bar.add_task("writing the store", total=None)
        return writer.commit(
            [name for name in order if name not in bad],
            skipped=dict(sorted(bad.items())),
            not_read=found.not_read,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
