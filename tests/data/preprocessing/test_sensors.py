"""Sensors measured from the samples of a recording: step, noise, rate and range."""

import numpy as np
import pytest

from accdistill_jax.data.preprocessing.sensors import measured_sensors, noise_mg, sensor_rows, smallest_step
from accdistill_jax.data.recording import Participant, Recording, Stream


def wrist(rate_hz, seconds, *, noise=0.5, step_g=0.0, seed=0):
    """A wrist that sways slowly, with white noise in mg/sqrt(Hz) and a step in g."""
    rng, count = np.random.default_rng(seed), round(rate_hz * seconds)
    sway = 0.05 * np.sin(2 * np.pi * 0.2 * np.arange(count) / rate_hz)[:, None] * [1, 0, 1]
    values = [0, 0.6, 0.8] + sway + 1e-3 * noise * np.sqrt(rate_hz / 2) * rng.normal(size=(count, 3))
    return np.round(values / step_g) * step_g if step_g else values


def recording(values, device="watch", **stream):
    accel = Stream("accel", values, ("x", "y", "z"), "g", **stream)
    return Recording("r", Participant("p"), device, "bench", 0.0, {"accel": accel})


@pytest.mark.parametrize(
    "step_g", [1 / 64, 1 / 2048, 0.001, 0.00469378 / 9.80665], ids=["E4", "EmbracePlus", "Polar", "Verily"]
)
def test_the_step_is_the_sensors(step_g):
    assert smallest_step(wrist(64, 60, step_g=step_g).astype(np.float32)) == pytest.approx(step_g, rel=1e-3)


def test_the_step_of_counts_of_light_and_of_constants():
    counts = 260_000 + np.cumsum(np.random.default_rng(0).integers(-90, 91, 20_000))
    assert smallest_step(counts[:, None].astype(np.float32)) == 1
    assert smallest_step(np.full((100, 3), 0.25, np.float32)) is None
    some = np.where(np.arange(300)[:, None] % 7 == 0, np.nan, [0.5, 1.0, 1.5] + np.arange(300)[:, None] % 2)
    assert smallest_step(some.astype(np.float32)) == 1


@pytest.mark.parametrize("rate_hz", [32, 52, 64, 100])
@pytest.mark.parametrize("noise", [0.1, 0.7])
def test_the_noise_of_calm_minutes_is_found_beside_motion(rate_hz, noise):
    values = wrist(rate_hz, 300, noise=noise)
    half = len(values) // 2
    values[half:] += 0.2 * np.random.default_rng(1).normal(size=(len(values) - half, 3))
    values[:40] = np.nan
    assert noise_mg(values, rate_hz=rate_hz) == pytest.approx(noise, rel=0.12)


def test_too_short_or_constant_has_no_noise():
    assert noise_mg(wrist(64, 1), rate_hz=64) is None
    assert noise_mg(np.ones((6400, 3)), rate_hz=64) is None


def test_sensors_of_a_recording_and_of_several():
    values = wrist(50, 60, step_g=0.001)
    time_s = np.arange(len(values)) / 50
    time_s[1000:] += 500  # a gap
    known = measured_sensors(recording(values, time_s=time_s, range=(-4.0, 4.0)))
    accel = known["accel"]
    assert set(known) == {"device", "accel"} and accel["unit"] == "g" and accel["range"] == [-4, 4]
    assert accel["rate_hz"] == pytest.approx(50, rel=1e-3) and accel["step"] == 0.001
    assert accel["lowest"] == pytest.approx(values.min(), rel=1e-3)
    others = [{"sensors": measured_sensors(recording(wrist(50, 60, noise=k), rate_hz=50.0))} for k in (1, 2, 3)]
    old = [{}, None, [1], {"sensors": "none", "held_s": 3}, {"sensors": {"accel": 3}}]
    (row,) = sensor_rows(others + old)
    assert (row.device, row.signal, row.recordings, row.range) == ("watch", "accel", 3, None)
    assert row.noise_mg == pytest.approx(2, rel=0.12) and "50 Hz, steps of" in row.words
    assert sensor_rows(old) == []


@pytest.mark.parametrize("rate_hz", [25, 32, 52, 64, 100])
def test_calm_windows_are_not_chosen_for_their_little_noise(rate_hz):
    still = 0.5e-3 * np.sqrt(rate_hz / 2) * np.random.default_rng(0).normal(size=(40, 300 * rate_hz, 3))
    found = [noise_mg(values, rate_hz=rate_hz) for values in still]
    assert np.mean(found) == pytest.approx(0.5, rel=0.02)  # one estimate varies by 3 to 5 %
