"""Prepares single recordings: loads, preprocesses and stages them. Workers of any engine call this module."""

import functools
import os
import traceback
from collections.abc import Callable, Iterator, Mapping

from accdistill_jax.data.preprocessing.polarity import Vote, decide
from accdistill_jax.data.preprocessing.preprocess import preprocess
from accdistill_jax.data.preprocessing.segments import SegmentBatch
from accdistill_jax.data.preprocessing.sensors import SENSORS, measured_sensors
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.recording import Recording, RecordingSource
from accdistill_jax.data.recordings import Found
from accdistill_jax.data.store.content import signal_hash
from accdistill_jax.data.store.manifest import SIGNALS
from accdistill_jax.data.store.writer import StoreWriter, UnfitUnit
from accdistill_jax.errors import UserError
from accdistill_jax.text import one_line

_TOO_LARGE = "the recording does not fit into memory; split it, or prepare with fewer --workers"
_LONGEST = 300  # characters of an unforeseen error


def apply_pooled_polarity(
    sources: Found, *, writer: StoreWriter, stage: Callable, run: Callable
) -> Iterator[tuple[RecordingSource, str | None]]:
    """Prepares again the recordings whose PPG polarity the pooled votes of their device change; yields as `run_all` does.

    The choice depends only on the staged recordings, so a preparation that was interrupted here continues with the rest.
    """
    votes = {source.recording_id: vote for source in sources if (vote := writer.vote(source.recording_id)) is not None}
    changes = polarity_changes(votes, earlier=sources.earlier)
    for wanted in sorted(set(changes.values())):
        wrong = [source for source in sources if changes.get(source.recording_id) == wanted]
        yield from run(functools.partial(stage, polarity=wanted), wrong)


def polarity_changes(votes: Mapping[str, Vote], *, earlier: Mapping[str, Vote]) -> dict[str, str]:
    """Id of each recording whose applied PPG polarity is not that of the pooled votes -> the pooled polarity; see `polarity.decide`."""
    decisions = decide(votes, earlier=earlier)
    return {name: decisions[name].polarity for name, vote in votes.items() if decisions[name].polarity != vote.applied}


def stage_recording(
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


def raise_bad(bad: Mapping[str, str], *, of: int, skip_bad: bool) -> None:
    """Raises UserError if bad recordings (id -> problem) among so many are not to be left out, or if there is no other."""
    if bad and not skip_bad:
        raise UserError(bad_message(bad, of))
    if len(bad) == of:
        raise UserError(f"none of the {of} recordings can be prepared; the first: {_first(bad)}")


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
