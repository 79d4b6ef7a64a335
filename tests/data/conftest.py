"""Small made-up batches and stores for the tests of data."""

import json
from pathlib import Path

import numpy as np
import pytest

from accdistill_jax.data.preprocessing.segments import SegmentBatch
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.recording import Participant
from accdistill_jax.data.store import shards
from accdistill_jax.data.store.manifest import manifest_fingerprint
from accdistill_jax.data.store.store import Store
from accdistill_jax.data.store.writer import StoreWriter


def _batch(participant: str, segments: int, *, seed: int = 0, channels: int = 2, samples: int = 640, **facts):
    rng = np.random.default_rng([seed, segments, *participant.encode()])
    return SegmentBatch(
        ppg=rng.normal(3, 40, (segments, samples, channels or 2))[..., :channels].astype(np.float32),
        accel=rng.normal(0, 0.01, (segments, samples, 3)).astype(np.float32) + np.float32([0, 0, 1]),
        columns={
            "participant": np.full(segments, participant),
            "recording": np.full(segments, f"{participant}-a"),
            "device": np.full(segments, "bench"),
            "start_unix_s": 1e9 + 10.0 * np.arange(segments),
            "hr_bpm": rng.uniform(50, 90, segments).astype(np.float32),
        },
        participant=Participant(participant_id=participant, **facts),
        examined=segments + 3,
        rejected={"motion": 2, "quality": 1},
    )


@pytest.fixture(scope="session")
def make_batch():
    """make_batch(participant, segments, seed=, channels=, samples=, **participant facts) -> SegmentBatch."""
    return _batch


@pytest.fixture(scope="session")
def settings() -> PreprocessSettings:
    """10 s segments at 64 Hz: 640 samples."""
    return PreprocessSettings(segment_s=10.0, hop_s=10.0)


@pytest.fixture
def make_store(tmp_path, settings):
    """make_store(name, {participant: segments}, **options) -> Store, one unit per participant."""

    def make(
        name: str, people: dict[str, int], *, path=None, channels: int = 2, seed: int = 0, split=None, settings=settings
    ) -> Store:
        writer = StoreWriter(path or tmp_path / name, settings=settings, source="bench", split=split)
        samples = round(settings.rate_hz * settings.segment_s)
        for participant, segments in people.items():
            writer.add(participant, _batch(participant, segments, seed=seed, channels=channels, samples=samples))
        return writer.commit(list(people))

    return make


@pytest.fixture(scope="session")
def people() -> dict[str, int]:
    """Participants and their segments: 24 in all, three shards of `small_shards`."""
    return {"anna": 11, "ben": 0, "cleo": 9, "dora": 4}


@pytest.fixture
def small_shards(monkeypatch):
    """Stores that are written hold eight segments a shard."""
    monkeypatch.setattr(shards, "SEGMENTS_PER_SHARD", 8)


@pytest.fixture
def whole(make_store, small_shards, people) -> str:
    """Path of a store of `people` in small shards."""
    return make_store("s", people).path


@pytest.fixture(scope="session")
def edit_manifest():
    """edit_manifest(path, **changes) changes keys of a store's manifest, and its fingerprint with them."""

    def edit(path, **changes) -> None:
        file = Path(path) / "manifest.json"
        manifest = json.loads(file.read_text()) | changes
        file.write_text(json.dumps(manifest | {"fingerprint": manifest_fingerprint(manifest)}))

    return edit
