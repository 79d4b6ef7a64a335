"""Bursts of motion that both sensors of a synthetic minute record."""

import numpy as np
import pytest

from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.synthetic import synthetic
from accdistill_jax.data.synthetic.physiology import sample_participant
from accdistill_jax.data.synthetic.shared_motion import ACCEL_G, add_shared_motion
from accdistill_jax.data.synthetic.waveforms import SAMPLES, Minute
from accdistill_jax.errors import UserError

PERSON = sample_participant(3, 1)
STILL = Minute(np.zeros((SAMPLES, 2), np.float32), np.zeros((SAMPLES, 3), np.float32))


def added(segment, *, scale=3.0):
    """The bursts of a minute."""
    return add_shared_motion(STILL, PERSON, scale=scale, key=(3, 1, segment))


@pytest.mark.parametrize("segment", range(6))
def test_both_sensors_record_the_same_wave_in_their_units(segment):
    ppg, accel = added(segment)
    height = np.linalg.norm(accel, axis=1)
    assert 0.2 * 3 * ACCEL_G < height.max() < 3 * 3 * ACCEL_G
    axis = np.abs(accel).max(axis=0).argmax()
    for channel in ppg.T:
        assert abs(np.corrcoef(channel, accel[:, axis])[0, 1]) > 0.99
    # one direction, and a few short bursts
    assert np.linalg.matrix_rank(accel, tol=1e-2 * np.abs(accel).max()) == 1
    assert np.mean(height < 0.02 * height.max()) > 0.6


def test_minutes_have_bursts_at_their_own_times():
    power = np.stack([np.linalg.norm(added(segment).accel, axis=1) for segment in range(6)])
    assert np.abs(np.corrcoef(power) - np.eye(6)).max() < 0.9


def test_it_grows_with_the_scale():
    one, three = added(0, scale=1.0), added(0)
    np.testing.assert_allclose(three.ppg, 3 * one.ppg, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(three.accel, 3 * one.accel, rtol=1e-4, atol=1e-6)


def test_a_population_has_it_and_most_minutes_are_kept():
    plain, shared = (
        synthetic.SyntheticSettings(participants=1, segments_per_participant=12, seed=3, shared_motion=scale)
        for scale in (0.0, 10.0)
    )
    before, after = (synthetic.generate_batch(settings, 0, PreprocessSettings()) for settings in (plain, shared))
    assert len(after.ppg) >= 0.7 * len(before.ppg) > 0
    assert after.columns["motion_g"].mean() > before.columns["motion_g"].mean()
    assert after.columns["hr_bpm"][0] in before.columns["hr_bpm"]  # the heart is the same


def test_the_identity_of_a_store_tells_it():
    assert "shared_motion" not in synthetic.SyntheticSettings().to_json()
    assert synthetic.SyntheticSettings(shared_motion=3.0).to_json()["shared_motion"] == 3.0
    with pytest.raises(UserError, match="shared_motion must be within 0 to 100"):
        synthetic.SyntheticSettings(shared_motion=-1.0)
