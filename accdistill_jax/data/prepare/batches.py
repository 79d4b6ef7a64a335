"""The steps of a preparation on many machines: batches of recordings, staged by any worker, and one last step that writes the store.

The steps exchange plain values and files in the staging folder of the store, so any engine can run them. Each step may run again:
a staged unit, named by a hash of its recording's id, is kept. Workers need neither jax nor the engine's library to import this module.
"""

import functools
import json
import pickle
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from accdistill_jax.data import recordings
from accdistill_jax.data.prepare.staging import polarity_changes, process_died, raise_bad, stage_recording
from accdistill_jax.data.prepare.workers import run_all
from accdistill_jax.data.preprocessing.polarity import NO_VOTES, Vote
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.recording import RecordingSource
from accdistill_jax.data.store.manifest import read_manifest
from accdistill_jax.data.store.request import json_bytes
from accdistill_jax.data.store.writer import StoreWriter
from accdistill_jax.errors import UserError

RECORDINGS_PER_BATCH = 16
_FOLDER = "beam"
_NOT_READ, _REFUSAL = f"{_FOLDER}/not_read.json", f"{_FOLDER}/refusal.json"


class Outcome(NamedTuple):
    """Result of preparing a recording.

    Attributes:
        recording_id: id of the recording.
        problem: the problem of a bad recording, in words; None if it is staged.
        vote: vote of the staged recording on the polarity of its PPG; None without one.
        stops: True if the problem is not the recording's, such as a full disk.
    """

    recording_id: str
    problem: str | None = None
    vote: Vote | None = None
    stops: bool = False


@dataclass(frozen=True)
class StoreJob:
    """Work that all steps share; picklable.

    Attributes:
        writer: writer of the store.
        settings: settings of preprocessing.
        skip_bad: leave out bad recordings.
        can_crash: True if loading a damaged recording may end the process; a batch then has a process of its own.
    """

    writer: StoreWriter
    settings: PreprocessSettings
    skip_bad: bool
    can_crash: bool

    def write_batches(self, found: recordings.Found) -> list[str]:
        """Writes the recordings into the staging folder, in batches; returns the names of the batches."""
        staging = self.writer.staging
        staging.remove(_REFUSAL)
        staging.write(_NOT_READ, json_bytes(found.not_read))
        names = []
        for start in range(0, len(found), RECORDINGS_PER_BATCH):
            names.append(f"{_FOLDER}/{start // RECORDINGS_PER_BATCH:07d}.pickle")
            staging.write(names[-1], pickle.dumps(list(found[start : start + RECORDINGS_PER_BATCH])))
        return names

    def prepare(self, batch: str) -> Iterator[Outcome]:
        """First step: stages the recordings of a batch that are not staged yet."""
        sources = self._sources(batch)
        staged = self.writer.staged([source.recording_id for source in sources])
        missing = [source for source in sources if source.recording_id not in staged]
        bad = yield from self._stage(missing, polarity=None)
        for source in sources:
            if source.recording_id not in bad:
                yield Outcome(source.recording_id, vote=self.writer.vote(source.recording_id))

    def prepare_again(self, batch: str, changes: Mapping[str, str]) -> Iterator[Outcome]:
        """Second step: stages the recordings of a batch again whose polarity changes; yields the bad ones alone."""
        for wanted in sorted(set(changes.values())):
            wrong = [source for source in self._sources(batch) if changes.get(source.recording_id) == wanted]
            yield from self._stage(wrong, polarity=wanted)

    def finish(self, outcomes: Iterable[Outcome]) -> None:
        """Last step: writes the store, the manifest last; or a refusal, for `result`.

        Args:
            outcomes: of both steps.
        """
        outcomes = list(outcomes)
        order = sorted({outcome.recording_id for outcome in outcomes})
        if read_manifest(self.writer.path) is not None and not self.writer.staged(order):
            return  # an engine may run a step again whose answer was lost
        bad = {outcome.recording_id: outcome.problem for outcome in outcomes if outcome.problem is not None}
        try:
            for outcome in outcomes:
                if outcome.stops:
                    raise UserError(outcome.problem)
            raise_bad(bad, of=len(order), skip_bad=self.skip_bad)
            not_read = json.loads(self.writer.staging.read(_NOT_READ) or b"{}")
            self.writer.commit(
                [name for name in order if name not in bad], skipped=dict(sorted(bad.items())), not_read=not_read
            )
        except UserError as error:
            self.writer.staging.write(_REFUSAL, json_bytes(str(error)))

    def check(self) -> None:
        """Raises the UserError of the last step, if it wrote no store."""
        refusal = self.writer.staging.read(_REFUSAL)
        if refusal is not None:
            self.writer.staging.remove(_REFUSAL)
            raise UserError(json.loads(refusal))

    def _sources(self, batch: str) -> list[RecordingSource]:
        content = self.writer.staging.read(batch)
        if content is None:
            raise UserError(f"{self.writer.staging.where(batch)}: missing; run the same command again")
        return pickle.loads(content)

    def _stage(self, sources: list[RecordingSource], *, polarity: str | None):
        """Stages recordings; yields the outcomes of the bad ones, and returns their ids."""
        stage = functools.partial(
            stage_recording, writer=self.writer, settings=self.settings, skip_bad=self.skip_bad, polarity=polarity
        )
        bad, done = set(), set()
        try:
            for source, problem in run_all(stage, sources, workers=1, apart=self.can_crash, died=process_died):
                done.add(source.recording_id)
                if problem is not None:
                    bad.add(source.recording_id)
                    yield Outcome(source.recording_id, problem)
        except UserError as error:
            for source in sources:
                if source.recording_id not in done:
                    bad.add(source.recording_id)
                    yield Outcome(source.recording_id, str(error), stops=True)
        return bad


def changes_of(outcomes: Iterable[Outcome], *, earlier: Mapping[str, Vote] = NO_VOTES) -> dict[str, str]:
    """Ids of recordings whose PPG polarity the pooled votes of their device change -> the polarity.

    Args:
        outcomes: of the first step.
        earlier: votes of the store that the recordings are added to.
    """
    votes = {outcome.recording_id: outcome.vote for outcome in outcomes if outcome.vote is not None}
    return polarity_changes(votes, earlier=earlier)
