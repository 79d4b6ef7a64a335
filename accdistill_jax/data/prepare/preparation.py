"""From recordings to a store: loads, preprocesses and stages each recording, then commits the store."""

import dataclasses
import functools
import itertools
import os
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from accdistill_jax.data import recordings
from accdistill_jax.data.prepare.workers import check_workers, run_all
from accdistill_jax.data.preprocessing import polarity as polarity_lib
from accdistill_jax.data.preprocessing.preprocess import preprocess
from accdistill_jax.data.preprocessing.segments import SegmentBatch
from accdistill_jax.data.preprocessing.sensors import SENSORS, measured_sensors
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.recording import Recording, RecordingSource
from accdistill_jax.data.store.content import signal_hash
from accdistill_jax.data.store.manifest import SIGNALS
from accdistill_jax.data.store.request import existing_store
from accdistill_jax.data.store.split import SplitRule
from accdistill_jax.data.store.store import Store
from accdistill_jax.data.store.writer import StoreWriter, UnfitUnit
from accdistill_jax.errors import UserError
from accdistill_jax.runtime.progress import progress_bar
from accdistill_jax.text import one_line, readable

_TOO_LARGE = "the recording does not fit into memory; split it, or prepare with fewer --workers"
_CHANGED = "if recordings have changed since, prepare with --overwrite"
_LONGEST = 300  # characters of an unforeseen error


def _cores() -> int:
    return os.cpu_count() or 1


@dataclasses.dataclass(frozen=True)
class PreparationSettings:
    """Settings of a preparation. They are flags of the command line, too.

    Attributes:
        workers: number of worker processes; the bytes of the store do not depend on it.
        overwrite: replace the store that exists at the target.
        skip_bad: leave out recordings that cannot be read (the summary lists them) instead of stopping.
        quiet: print no progress bars.

    Raises:
        UserError: fewer than one worker.
    """

    workers: int = dataclasses.field(default_factory=_cores)
    overwrite: bool = False
    skip_bad: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        check_workers(self.workers)


def find_recordings(reader: str, roots: Sequence[str | os.PathLike], **options) -> recordings.Found:
    """Finds the recordings below all roots.

    Raises:
        UserError: a root holds no recording, two roots hold a recording of the same id, or a root lies inside another one.
    """
    found: dict[str, tuple[RecordingSource, object]] = {}
    not_read: dict[str, str] = {}
    can_crash = False
    for root in roots:
        below = recordings.find(reader, Path(root), **options)
        can_crash = below.can_crash
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
    return recordings.Found(
        [source for source, _ in found.values()],
        reader=reader,
        options=options,
        not_read=not_read,
        can_crash=can_crash,
    )


def _refuse_nested(roots: Sequence[str | os.PathLike]) -> None:
    """Raises UserError for a root inside another one: its recordings would be read twice."""
    real = [Path(root).resolve() for root in roots]
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
        UserError: bad recordings (all are named, after the others were prepared and kept), recordings that hold the same
            signal, a different store at `out`, or a full disk.
    """
    preparation, split = preparation or PreparationSettings(), split or SplitRule()
    order = [source.recording_id for source in found]
    request = {"settings": settings, "source": found.reader, "source_settings": found.options, "split": split}
    if not preparation.overwrite:
        store = existing_store(out, units=order, **request)
        if store is not None:
            report(f"{store.path} was already complete and is left as it is; {_CHANGED}")
            return store
    split.assign(source.participant_id for source in found)
    writer = StoreWriter(out, overwrite=preparation.overwrite, **request)
    with writer.exclusive(), progress_bar(not preparation.quiet) as bar:
        missing = [source for source in found if not writer.has(source.recording_id)]
        kept = len(found) - len(missing)
        if kept:
            report(f"{kept} of {len(found)} recordings were prepared by an earlier start and are kept; {_CHANGED}")
        task = bar.add_task("preparing recordings", total=len(found), completed=kept)
        bad: dict[str, str] = {}
        stage = functools.partial(_stage, writer=writer, settings=settings, skip_bad=preparation.skip_bad)
        # A reader whose parser can crash runs in another process, even with one worker: this one survives and names the file.
        run = functools.partial(run_all, workers=preparation.workers, apart=found.can_crash, died=process_died)
        for source, problem in run(stage, missing):
            if problem is not None:
                bad[source.recording_id] = problem
            bar.advance(task)
        good = [source for source in found if source.recording_id not in bad]
        for source, problem in apply_pooled_polarity(good, writer=writer, stage=stage, run=run):
            if problem is not None:
                bad[source.recording_id] = problem
        if bad and not preparation.skip_bad:
            raise UserError(bad_message(bad, len(found)))
        if len(bad) == len(found):
            raise UserError(f"none of the {len(found)} recordings can be prepared; the first: {_first(bad)}")
        task = bar.add_task("writing the store", total=None)
        return writer.commit(
            [name for name in order if name not in bad],
            skipped=dict(sorted(bad.items())),
            not_read=found.not_read,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def apply_pooled_polarity(
    sources: Sequence[RecordingSource], *, writer: StoreWriter, stage: Callable, run: Callable
) -> Iterator[tuple[RecordingSource, str | None]]:
    """Prepares again the recordings whose PPG polarity the pooled votes of their device change; yields as `run_all` does.

    The choice depends only on the staged recordings, so a preparation that was interrupted here continues with the rest.
    """
    votes = {source.recording_id: vote for source in sources if (vote := writer.vote(source.recording_id)) is not None}
    decisions = polarity_lib.decide(votes)
    for wanted in sorted({vote.polarity for vote in decisions.values()}):
        wrong = [
            source
            for source in sources
            if (vote := votes.get(source.recording_id)) is not None
            and decisions[source.recording_id].polarity == wanted != vote.applied
        ]
        yield from run(functools.partial(stage, polarity=wanted), wrong)


def _stage(
    source: RecordingSource,
    *,
    writer: StoreWriter,
    settings: PreprocessSettings,
    skip_bad: bool,
    polarity: str | None = None,
) -> str | None:
    """Prepares one recording; returns the problem of a bad recording, else None."""
    prepared = prepare_one(
        source, functools.partial(preprocess, settings=settings, polarity=polarity), skip_bad=skip_bad
    )
    if isinstance(prepared, str):
        return prepared
    recording, batch = prepared
    batch.notes[SENSORS] = measured_sensors(recording)
    try:
        used = [name for name in SIGNALS if getattr(batch, name).shape[-1]]
        signals = {name: signal_hash(recording.streams[name].values) for name in used}
        writer.add(source.recording_id, batch, signals=signals)
    except UnfitUnit as error:
        return str(error)
    except MemoryError:
        return _TOO_LARGE
    return None


def prepare_one(
    source: RecordingSource, cut: Callable[[Recording], SegmentBatch], *, skip_bad: bool
) -> tuple[Recording, SegmentBatch] | str:
    """Loads a recording and cuts it into segments.

    Args:
        source: the recording.
        cut: makes its segments.
        skip_bad: True also leaves out a recording that raises an unforeseen error in `cut`.

    Returns:
        The recording and its segments; or the problem of a bad recording, in words.
    """
    try:
        recording = source.load()
    except UserError as error:
        return str(error)
    except MemoryError:
        return _TOO_LARGE
    except Exception as error:  # a fault in the file that its reader does not foresee
        return f"cannot be read ({_where(error)}); copy it again"
    if not isinstance(recording, Recording):  # a reader from outside
        return f"its reader returned {type(recording).__name__}, not a Recording"
    try:
        return recording, cut(recording)
    except UserError as error:
        return str(error)
    except MemoryError:
        return _TOO_LARGE
    except Exception as error:
        if skip_bad:
            return f"cannot be prepared ({_where(error)})"
        error.add_note(f"while preparing recording {source.recording_id}")
        raise


def process_died(source: RecordingSource, cause: str) -> str:
    """The problem of a recording whose process died."""
    return f"the process that read it died ({cause}): its files are damaged, or there is too little memory"


def _where(error: Exception) -> str:
    """Text of an unforeseen error, with the line of code that raised it."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = str(error)
    return f"{type(error).__name__}: {text[:_LONGEST]}{' ...' * (len(text) > _LONGEST)}, {os.path.basename(place.filename)} line {place.lineno}"


def bad_message(bad: Mapping[str, str], of: int) -> str:
    """The message about bad recordings (id -> problem) among so many."""
    advice = "repair or remove it, or leave it out with --skip-bad; the other recordings are prepared and kept"
    if len(bad) == 1:
        return f"recording {_first(bad)}; {advice}"
    advice = "repair or remove them, or leave them out with --skip-bad; the other recordings are prepared and kept"
    listed = "".join(f"\n  {name}: {one_line(problem)}" for name, problem in sorted(bad.items()))
    return f"{len(bad)} of {of} recordings cannot be prepared:{listed}\n{advice}"


def _first(bad: Mapping[str, str]) -> str:
    name = min(bad)
    return f"{name}: {one_line(bad[name])}"
