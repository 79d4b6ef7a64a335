"""Minutes without a heart: what they keep, that no rate is left in them, and the test that read-outs fit on their embeddings."""

import numpy as np
import pytest

from accdistill_jax.data.preprocessing.quality import accel_quality
from accdistill_jax.evaluation.heartless import heartless_minute
from accdistill_jax.evaluation.predictions import fit_readouts
from accdistill_jax.readouts.readout import NO_HEART
from tests.evaluation.test_predictions import population

RATE_HZ = 64.0


def wrist(seed=0):
    """A minute [3840, 3] in g: gravity, breathing, and a strong heartbeat of 70 bpm."""
    time = np.arange(3840) / RATE_HZ
    beat = 0.01 * np.sin(2 * np.pi * 8 * time) * np.exp(-10 * (time % (60 / 70)))
    breath = 0.02 * np.sin(2 * np.pi * 0.25 * time)
    noise = np.random.default_rng(seed).normal(0, 0.0005, (3840, 3))
    return noise + [0.0, 0.6, 0.8] + beat[:, None] * [0.2, 0.5, 0.8] + breath[:, None] * [1.0, 0.0, 0.0]


@pytest.fixture(scope="module")
def made():
    return np.stack(
        [heartless_minute(wrist(), rate_hz=RATE_HZ, rng=np.random.default_rng([1, seed])) for seed in range(40)]
    )


def test_no_heartbeat_is_left(made):
    before = accel_quality(wrist()[None], rate_hz=RATE_HZ)[0]
    after = accel_quality(made, rate_hz=RATE_HZ)
    assert before > 0.5 and np.median(after) < 0.3 * before and np.quantile(after, 0.95) < 0.5 * before


def test_half_of_them_keep_posture_breathing_and_spectrum(made):
    assert made.dtype == np.float32 and np.isfinite(made).all()
    np.testing.assert_allclose(made.mean(axis=1), np.broadcast_to(wrist().mean(axis=0), (40, 3)), atol=0.02)
    breath = 0.02 * np.sin(2 * np.pi * 0.25 * np.arange(3840) / RATE_HZ)
    kept = np.array([np.corrcoef(minute[:, 0], breath)[0, 1] for minute in made]) > 0.8
    assert 8 < kept.sum() < 32
    band = slice(6 * 60, 10 * 60)  # 6 to 10 Hz, where the beats are
    power = (np.abs(np.fft.rfft(made[kept][:, :, 2], axis=1)) ** 2)[:, band].mean(axis=1)
    of_signal = (np.abs(np.fft.rfft(wrist()[:, 2])) ** 2)[band].mean()
    assert 0.5 < np.median(power) / of_signal < 3


def test_the_same_seed_gives_the_same_minute_and_another_another():
    first, second, other = (
        heartless_minute(wrist(), rate_hz=RATE_HZ, rng=np.random.default_rng(seed)) for seed in (3, 3, 4)
    )
    assert np.array_equal(first, second) and not np.array_equal(first, other)
    ppg = heartless_minute(wrist()[:, :1], rate_hz=RATE_HZ, rng=np.random.default_rng(0))
    assert ppg.shape == (3840, 1)


def test_read_outs_refuse_embeddings_of_minutes_without_a_heart():
    splits = {name: population(people, seed=seed) for name, people, seed in (("train", 60, 1), ("validation", 40, 2))}

    def shifted(people, seed):
        without = population(people, seed=seed)
        return type(without)(without.embedding + np.float32([0, 0, 5, 0, 0, 0]), None, without.participant, {})

    heartless = {"train": shifted(30, 4), "validation": shifted(30, 5)}
    readouts = fit_readouts(splits, fingerprint="f00d", seed=0, heartless=heartless)
    unseen = readouts.predict(shifted(30, 6).embedding)["hr_bpm"]
    assert np.mean(unseen.reason == NO_HEART) + np.mean(unseen.reason == "unlike the training data") > 0.97
    real = readouts.predict(population(30, seed=7).embedding)["hr_bpm"]
    assert real.known.mean() > 0.85
    assert fit_readouts(splits, fingerprint="f00d", seed=0).heart is None
