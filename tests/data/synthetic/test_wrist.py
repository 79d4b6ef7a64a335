"""Wrists and watches of the second generator: every trait fills its range, and ranks of people stay."""

import dataclasses

import numpy as np
import pytest

from accdistill_jax.data.synthetic import physiology, wrist


@pytest.fixture(scope="module")
def wrists():
    return [wrist.sample_wrist(3, index, physiology.sample_participant(3, index)) for index in range(800)]


def _column(wrists, name):
    return np.array([getattr(w, name) for w in wrists])


@pytest.mark.parametrize(
    ("name", "limits"),
    [
        ("noise_mg", wrist.NOISE_MG),
        ("offset_s", wrist.OFFSET_S),
        ("drift_ppm", wrist.DRIFT_PPM),
        ("rate_error_ppm", wrist.RATE_ERROR_PPM),
        ("beat_mg", wrist.BEAT_MG),
        ("timing_ms", wrist.TIMING_MS),
        ("unrest_mg", wrist.UNREST_MG),
        ("tremor_mg", wrist.TREMOR_MG),
        ("tilt_mg", wrist.TILT_MG),
        ("pulse_breath", wrist.PULSE_BREATH),
        ("beat_breath", wrist.BEAT_BREATH),
    ],
)
def test_every_trait_fills_its_range(wrists, name, limits):
    size = np.abs(_column(wrists, name))
    assert limits.low <= size.min() and size.max() <= limits.high
    place = np.log(size / limits.low) / np.log(limits.high / limits.low) if limits.log else size / limits.high
    shares = np.histogram(place, bins=4, range=(0, 1))[0] / len(size)
    assert shares.min() > 0.15 and shares.max() < 0.40


def test_clocks_err_in_both_directions(wrists):
    for name in ("offset_s", "drift_ppm", "rate_error_ppm"):
        assert 0.4 < np.mean(_column(wrists, name) > 0) < 0.6


def test_devices_have_their_shares(wrists):
    assert sum(device.share for device in wrist.DEVICES) == pytest.approx(1.0)
    for device in wrist.DEVICES:
        assert np.mean([w.device == device for w in wrists]) == pytest.approx(device.share, abs=0.05)


@pytest.mark.parametrize(
    ("name", "of_person"),
    [
        ("beat_mg", "bcg_mg"),
        ("tremor_mg", "tremor_mg"),
        ("tilt_mg", "respiration_tilt_mg"),
        ("unrest_mg", "restlessness"),
    ],
)
def test_ranks_of_people_stay(wrists, name, of_person):
    values, before = _column(wrists, name), np.array([getattr(w.person, of_person) for w in wrists])
    assert (np.diff(values[np.argsort(before)]) >= 0).all()


def test_a_wrist_depends_on_seed_and_index_alone():
    person = physiology.sample_participant(3, 5)
    one, again = (wrist.sample_wrist(3, 5, person) for _ in range(2))
    assert dataclasses.replace(one, person=None) == dataclasses.replace(again, person=None)
    assert wrist.sample_wrist(3, 6, person).noise_mg != one.noise_mg != wrist.sample_wrist(4, 5, person).noise_mg
