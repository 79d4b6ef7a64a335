"""Recordings in, a store out: loads, preprocesses and stages each recording, then commits."""

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
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.recording import RecordingSource
from accdistill_jax.data.store.content import signal_hash
from accdistill_jax.data.store.manifest import SIGNALS
from accdistill_jax.data.store.request import existing_store
from accdistill_jax.data.store.split import SplitRule
from accdistill_jax.data.store.store import Store
from accdistill_jax.data.store.writer import StoreWriter, UnfitUnit
from accdistill_jax.errors import UserError
from accdistill_jax.runtime.progress import progress_bar
from accdistill_jax.text import one_line, readable

_TOO_LARGE = "does not fit into memory; split it, or prepare with fewer --workers"
_CHANGED = "if recordings have changed since, prepare with --overwrite"
_LONGEST = 300


def find_recordings(reader: str, roots: Sequence[str | os.PathLike], **options) -> recordings.Found:
    """Recordings below all roots, sorted by id, and what is not read there.

    Raises:
        UserError: a root without recordings, two roots with a recording of the same id, or a root inside another.
    """
    found: dict[str, tuple[RecordingSource, object]] = {}
    not_read: dict[str, str] = {}
    for root in roots:
        below = recordings.find(reader, Path(root), **options)
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
    return recordings.Found([source for source, _ in found.values()], not_read=not_read)


def _refuse_nested(roots: Sequence[str | os.PathLike]) -> None:
    """A folder is read with all that is in it, so that a root inside another would be read twice."""
    real = [Path(root).resolve() for root in roots]
    for inner, outer in itertools.permutations(range(len(real)), 2):
        if real[inner].is_relative_to(real[outer]):
            raise UserError(
                f"{roots[inner]} lies in {roots[outer]}, so that its recordings would be read twice; give one of them only"
            )


def prepare(
    sources: Sequence[RecordingSource],
    out: str | os.PathLike,
    *,
    reader: str,
    settings: PreprocessSettings,
    options: Mapping | None = None,
    split: SplitRule | None = None,
    workers: int = 1,
    skip_bad: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    not_read: Mapping[str, str] | None = None,
    apart: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Store:
    """Prepares recordings into a store; the same call after an interruption continues.

    The bytes of the store depend neither on `workers` nor on interruptions. If the store of exactly these
    arguments is complete already, it is opened and nothing else is done.

    Args:
        sources: recordings, of unique ids.
        out: local folder or URL of the store.
        reader: name of the reader they come from.
        settings: of preprocessing.
        options: the reader's options, kept in the manifest.
        split: how participants are split.
        workers: processes.
        skip_bad: leave out recordings that cannot be read, instead of stopping; the manifest names them.
        overwrite: replace whatever is at `out`.
        progress: show progress bars on stderr.
        not_read: what was left out where the recordings were looked for, and why; kept in the manifest.
        apart: load recordings in another process even with one worker, so that one whose parser crashes is named like other
            bad ones.
        say: told in a line what was prepared earlier and is kept, since nobody looks whether recordings have changed since.

    Raises:
        UserError: bad recordings (all are named, after the others were prepared and kept), recordings that hold the same
            signal, a different store at `out`, a full disk.
    """
    check_workers(workers)
    split = split or SplitRule()
    order = [source.recording_id for source in sources]
    request = {"settings": settings, "source": reader, "source_settings": dict(options or {}), "split": split}
    if not overwrite:
        store = existing_store(out, units=order, **request)
        if store is not None:
            say(f"{store.path} was complete already and is left as it is; {_CHANGED}")
            return store
    split.assign(source.participant_id for source in sources)
    writer = StoreWriter(out, overwrite=overwrite, **request)
    with writer.exclusive(), progress_bar(progress) as bar:
        missing = [source for source in sources if not writer.has(source.recording_id)]
        kept = len(sources) - len(missing)
        if kept:
            say(f"{kept} of {len(sources)} recordings were prepared by an earlier start and are kept; {_CHANGED}")
        task = bar.add_task("preparing recordings", total=len(sources), completed=kept)
        bad: dict[str, str] = {}
        stage = functools.partial(_stage, writer=writer, settings=settings, skip_bad=skip_bad)
        run = functools.partial(run_all, workers=workers, apart=apart, died=_died)
        for source, problem in run(stage, missing):
            if problem is not None:
                bad[source.recording_id] = problem
            bar.advance(task)
        good = [source for source in sources if source.recording_id not in bad]
        for source, problem in _turn_over(good, writer=writer, stage=stage, run=run):
            if problem is not None:
                bad[source.recording_id] = problem
        if bad and not skip_bad:
            raise UserError(_bad_message(bad, len(sources)))
        if len(bad) == len(sources):
            raise UserError(f"none of the {len(sources)} recordings can be prepared; the first: {_first(bad)}")
        task = bar.add_task("writing the store", total=None)
        return writer.commit(
            [name for name in order if name not in bad],
            skipped=dict(sorted(bad.items())),
            not_read=not_read,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def _turn_over(
    sources: Sequence[RecordingSource], *, writer: StoreWriter, stage: Callable, run: Callable
) -> Iterator[tuple[RecordingSource, str | None]]:
    """Prepares anew those recordings whose PPG the pooled votes of their device turn over; yields as `run` does, `run_all`, of `stage`, `_stage`.

    It depends on what is staged alone: after an interruption those that are left are done.
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
    """Prepares one recording; returns what is wrong with it, if it is bad."""
    try:
        recording = source.load()
    except UserError as error:
        return str(error)
    except MemoryError:
        return _TOO_LARGE
    except Exception as error:  # of a file that its reader did not foresee
        return f"cannot be read ({_where(error)}); copy it again"
    try:
        batch = preprocess(recording, settings, polarity=polarity)
    except UserError as error:
        return str(error)
    except MemoryError:
        return _TOO_LARGE
    except Exception as error:
        if skip_bad:
            return f"cannot be prepared ({_where(error)})"
        error.add_note(f"while preparing recording {source.recording_id}")
        raise
    try:
        signals = {name: signal_hash(recording.streams[name].values) for name in SIGNALS}
        writer.add(source.recording_id, batch, signals=signals)
    except UnfitUnit as error:
        return str(error)
    except MemoryError:
        return _TOO_LARGE
    return None


def _died(source: RecordingSource, cause: str) -> str:
    return f"the process that read it died ({cause}): its files are damaged, or memory is short"


def _where(error: Exception) -> str:
    """An unforeseen error in words, with the line of code that raised it."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = str(error)
    return f"{type(error).__name__}: {text[:_LONGEST]}{' ...' * (len(text) > _LONGEST)}, {os.path.basename(place.filename)} line {place.lineno}"


def _bad_message(bad: Mapping[str, str], of: int) -> str:
    advice = "repair or remove what is bad, or leave it out with --skip-bad; the other recordings are done and kept"
    if len(bad) == 1:
        return f"recording {_first(bad)}; {advice}"
    listed = "".join(f"\n  {name}: {one_line(problem)}" for name, problem in sorted(bad.items()))
    return f"{len(bad)} of {of} recordings cannot be prepared:{listed}\n{advice}"


def _first(bad: Mapping[str, str]) -> str:
    name = min(bad)
    return f"{name}: {one_line(bad[name])}"
