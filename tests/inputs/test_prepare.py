import jax
import jax.numpy as jnp
import numpy as np
import pytest

from accdistill_jax.config.schema import BANDS, SCALES, InputSettings
from accdistill_jax.inputs.prepare import (
    dequantise_batch,
    moving_mean,
    normalise,
    prepare_inputs,
)

RATE = 64


def stored(x):
    """A batch as the store holds it: int16 with a scale and an offset per segment and channel."""
    low, high = x.min(axis=1), x.max(axis=1)
    scale = ((high - low) / 65000).astype(np.float32)
    offset = ((high + low) / 2).astype(np.float32)
    steps = np.where(scale > 0, scale, 1.0)
    values = np.round((x - offset[:, None]) / steps[:, None]).astype(np.int16)
    return {"accel": values, "accel_scale": scale, "accel_offset": offset}


def signal(seed=0, batch=3, seconds=10, channels=2):
    rng = np.random.default_rng(seed)
    t = np.arange(RATE * seconds)[None, :, None] / RATE
    pace, turn = rng.uniform(0.1, 6, (2, batch, 1, channels))
    return (1.0 + np.sin(2 * np.pi * pace * t + turn) + 0.3 * rng.normal(size=(batch, len(t[0]), channels))).astype(
        np.float32
    )


def test_dequantise_gives_the_physical_values_back_to_half_a_step():
    x = signal() * np.float32(0.01) + 1
    batch = stored(x)
    error = np.abs(dequantise_batch(batch, "accel") - x)
    assert np.all(error <= 0.5 * batch["accel_scale"][:, None] + 3e-7)
    np.testing.assert_allclose(
        dequantise_batch(batch, "accel"),
        batch["accel"] * batch["accel_scale"][:, None] + batch["accel_offset"][:, None],
        rtol=1e-6,
    )


@pytest.mark.parametrize("scale", SCALES)
def test_normalise_sets_mean_and_scale_of_each_channel(scale):
    x = signal() * np.array([0.01, 50], np.float32)
    z = np.asarray(normalise(jnp.asarray(x), scale=scale))
    np.testing.assert_allclose(z.mean(axis=1), 0, atol=1e-4)
    spread = z.std(axis=1) if scale == "std" else np.abs(z).mean(axis=1) * np.sqrt(np.pi / 2)
    np.testing.assert_allclose(spread, 1, rtol=1e-3)


def test_scales_agree_on_gaussian_noise_and_robust_moves_less_with_a_burst():
    x = np.random.default_rng(0).normal(size=(1, 20000, 1)).astype(np.float32)
    std, robust = (np.asarray(normalise(jnp.asarray(x), scale=s)) for s in ("std", "robust"))
    np.testing.assert_allclose(std, robust, atol=0.1)
    burst = x.copy()
    burst[:, :400] *= 30
    shrunk = {s: np.asarray(normalise(jnp.asarray(burst), scale=s))[:, 400:].std() for s in ("std", "robust")}
    assert shrunk["std"] < 0.5 * shrunk["robust"] < 1


@pytest.mark.parametrize("length,width", [(50, 16), (40, 4), (9, 8)])
def test_moving_mean_is_the_mean_of_the_window_with_repeated_edges(length, width):
    x = np.random.default_rng(0).normal(size=(2, length, 3)).astype(np.float32)
    index = np.clip(np.arange(length)[:, None] + np.arange(width) - width // 2, 0, length - 1)
    np.testing.assert_allclose(moving_mean(jnp.asarray(x), width), x[:, index].mean(axis=2), rtol=1e-4, atol=1e-6)


def test_bands_add_up_to_the_signal(monkeypatch):
    from accdistill_jax.inputs import prepare as inputs

    x = signal()
    monkeypatch.setattr(inputs, "normalise", lambda x, *, scale: x)
    both = prepare_inputs(stored(x), "accel", InputSettings(bands="low+high"))
    high = prepare_inputs(stored(x), "accel", InputSettings(bands="high"))
    np.testing.assert_allclose(both[..., :2] + both[..., 2:], x - x[:, :1], atol=1e-3)
    np.testing.assert_array_equal(both[..., 2:], high)


def test_bands_part_a_change_of_posture_from_a_heartbeat():
    t = np.arange(RATE * 20)[None, :, None] / RATE
    slow, fast = np.sin(2 * np.pi * 0.2 * t), 0.003 * np.sin(2 * np.pi * 6 * t)
    z = np.asarray(prepare_inputs(stored((slow + fast).astype(np.float32)), "accel", InputSettings(bands="low+high")))
    inside = slice(RATE, -RATE)
    match = lambda a, b: np.corrcoef(a[0, inside, 0], b[0, inside, 0])[0, 1]
    assert match(z[..., :1], slow) > 0.99
    aligned = lambda z: z - np.convolve(z, np.ones(64) / 64, "same")  # what is left of the slow part is smooth
    assert abs(np.corrcoef(aligned(z[0, :, 1])[inside], fast[0, inside, 0])[0, 1]) > 0.9
    assert (
        match(np.asarray(prepare_inputs(stored((slow + fast).astype(np.float32)), "accel", InputSettings())), fast)
        < 0.1
    )


def test_the_envelope_of_the_beat_band_shows_beats_below_noise_and_sway():
    """Bursts of 3 mg at 6 Hz each second, in noise of 2.7 mg, with a sway of 0.2 Hz and one burst of motion."""
    rng = np.random.default_rng(0)
    t = np.arange(RATE * 60) / RATE
    after = t % 1.0
    beat = np.exp(-0.5 * ((after - 0.3) / 0.07) ** 2)
    x = (
        0.003 * beat * np.sin(2 * np.pi * 6 * after)
        + 0.02 * np.sin(2 * np.pi * 0.2 * t)
        + 0.0027 * rng.standard_normal(t.size)
    )
    x[RATE * 20 : RATE * 21] += 0.1 * rng.standard_normal(RATE)
    kept = np.abs(t - 20.5) > 2
    match = {}
    for bands in ("low+high+envelope", "low+high+beat"):
        batch = stored(x.astype(np.float32)[None, :, None])
        envelope = np.asarray(prepare_inputs(batch, "accel", InputSettings(bands=bands)))[0, :, 2]
        match[bands] = np.corrcoef(envelope[kept], beat[kept])[0, 1]
    assert match["low+high+beat"] > 1.5 * match["low+high+envelope"] > 0.1, match


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("limit", [0.0, 4.0])
@pytest.mark.parametrize("bands", BANDS)
def test_constant_channels_become_zero_and_nothing_is_ever_nan(bands, limit, scale):
    x = signal(batch=2)
    x[0, :, 1] = -0.98
    x[1] = 0.0
    x[0, 5, 0] = 400.0
    settings = InputSettings(bands=bands, limit=limit, scale=scale)
    z = np.asarray(jax.jit(lambda batch: prepare_inputs(batch, "accel", settings))(stored(x)))
    assert z.shape == (2, x.shape[1], 2 * (1 + bands.count("+")))
    assert np.all(np.isfinite(z))
    channels = z.reshape(2, x.shape[1], -1, 2)
    assert np.all(channels[0, :, :, 1] == 0) and np.all(channels[1] == 0)
    assert np.abs(channels[0, :, :, 0]).max() > 1
    if limit:
        assert np.abs(z).max() <= limit


def test_the_breathing_band_is_the_slow_amplitude_of_the_pulse_beside_the_signal():
    """A pulse of 1.2 Hz whose amplitude rises and falls 15 times a minute by 15 %."""
    t = np.arange(60 * RATE) / RATE
    breath = np.sin(2 * np.pi * 0.25 * t)
    pulse = (1 + 0.15 * breath) * np.sin(2 * np.pi * 1.2 * t)
    batch = stored(pulse[None, :, None].astype(np.float32))
    both = np.asarray(prepare_inputs(batch, "accel", InputSettings(bands="full+breathing")))
    np.testing.assert_allclose(both[..., :1], prepare_inputs(batch, "accel", InputSettings()), atol=1e-5)
    inside = slice(2 * RATE, -2 * RATE)  # the edges repeat a sample
    assert np.corrcoef(both[0, inside, 1], breath[inside])[0, 1] > 0.98
    np.testing.assert_allclose(both[0, :, 1].std(), 1, rtol=1e-3)  # weighs as much as the signal


def test_limit_bends_large_values_only():
    x = signal(batch=1)
    x[0, 5, 0] = 60.0
    plain, bent = (np.asarray(prepare_inputs(stored(x), "accel", InputSettings(limit=limit))) for limit in (0.0, 5.0))
    np.testing.assert_allclose(bent, plain / np.sqrt(1 + (plain / 5) ** 2), rtol=1e-4, atol=1e-5)
    assert plain.max() > 5 > bent.max()


def test_rows_do_not_depend_on_their_neighbours():
    batch = stored(signal(batch=4))
    settings = InputSettings(bands="low+high", limit=4.0, scale="robust")
    whole = prepare_inputs(batch, "accel", settings)
    one = prepare_inputs({k: v[2:3] for k, v in batch.items()}, "accel", settings)
    np.testing.assert_allclose(one, whole[2:3], rtol=1e-5, atol=1e-6)
