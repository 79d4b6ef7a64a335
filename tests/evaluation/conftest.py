"""Made-up encoders with known content: a latent state that the teacher sees clearly and the student less so."""

import numpy as np
import pytest

from accdistill_jax.evaluation.evaluate import SPLITS
from accdistill_jax.evaluation.split_embeddings import SplitEmbeddings


def _make(
    *,
    segments=(400, 80, 90),
    participants=(20, 6, 6),
    student_noise=0.4,
    labels=True,
    names=("teacher", "student", "untrained"),
    projections=True,
    seed=0,
):
    rng = np.random.default_rng(seed)
    mixing = {name: rng.standard_normal((6, 16)) for name in names}
    head = rng.standard_normal((6, 8))
    noise = {"teacher": 0.05, "student": student_noise, "untrained": 30.0}
    encoders = {name: {} for name in names}
    for split, n, people in zip(SPLITS, segments, participants, strict=True):
        who = np.sort(np.arange(n) % max(people, 1))
        state = 0.7 * rng.standard_normal((max(people, 1), 6))[who] + 0.7 * rng.standard_normal((n, 6))
        targets = {
            "hr_bpm": 70 + 10 * state[:, 0],
            "sdnn_ms": 50 + 15 * state[:, 1],
            "rmssd_ms": 40 + 9 * state[:, 2],
        }
        known = {k: (v if labels else np.full(n, np.nan)).astype(np.float32) for k, v in targets.items()}
        participant = np.array([f"{split}{i}" for i in who])
        for name in names:
            seen = state + noise[name] * rng.standard_normal((n, 6))
            projection = seen @ head
            projection /= np.linalg.norm(projection, axis=1, keepdims=True)
            encoders[name][split] = SplitEmbeddings(
                embedding=(seen @ mixing[name]).astype(np.float32),
                projection=projection.astype(np.float32) if projections else None,
                participant=participant,
                labels=known,
            )
    return encoders


@pytest.fixture
def make_encoders():
    """Function that makes encoders: name -> split -> SplitEmbeddings."""
    return _make
