import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from accdistill_jax.config.registry import AUGMENTATIONS
from accdistill_jax.inputs.augment import (
    augment,
    cheap_normal,
    curve_weights,
    interpolated,
    interpolated_by_shifts,
    order,
)
from accdistill_jax.runtime import platform
from accdistill_jax.runtime.parallel import Parallel

LENGTH = 200
NAMES = order()


def keys_of(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def ramp(batch, channels=1):
    return jnp.broadcast_to(jnp.linspace(1.0, 2.0, LENGTH)[None, :, None], (batch, LENGTH, channels))


def spec_of(name, **values):
    return dataclasses.replace(AUGMENTATIONS.sections()[name](), **values)


def run(x, name, *, probability=1.0, strength=0.2, knots=4, groups=1, seed=0, **options):
    specs = {name: spec_of(name, probability=probability, strength=strength, knots=knots, **options)}
    return np.asarray(jax.jit(lambda k, x: augment(k, x, specs, groups=groups))(keys_of(len(x), seed), jnp.asarray(x)))


def everything(probability=0.5):
    return {name: spec_of(name, probability=probability, strength=0.1, knots=5) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_probability_is_that_of_an_independent_event_per_segment(name):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 16, 4)), jnp.float32)
    x = jnp.broadcast_to(x, (1000, 16, 4))
    changed = np.any(run(x, name, probability=0.3) != x, axis=(1, 2))
    expected = 0.3 * (23 / 24 if name == "channel_permute" else 1)  # one order of 24 is the identity
    assert abs(changed.mean() - expected) <= 4 * np.sqrt(expected * (1 - expected) / 1000)
    # neighbours' events have nothing to do with one another
    assert abs(np.corrcoef(changed[:-1], changed[1:])[0, 1]) < 4 / np.sqrt(1000)


def test_probability_zero_is_never_and_one_is_always():
    x = ramp(200, 2)
    np.testing.assert_array_equal(augment(keys_of(200), x, everything(probability=0.0)), x)
    assert np.all(np.any(run(x, "cut_out", probability=1.0) != x, axis=(1, 2)))


def test_events_of_different_augmentations_are_independent():
    x = ramp(1500)
    specs = {name: spec_of(name, probability=0.5, strength=0.2) for name in ("cut_out", "gaussian_noise")}
    y = np.asarray(jax.jit(lambda k: augment(k, x, specs))(keys_of(1500)))
    cut = np.abs(np.sort(y[:, :, 0], axis=1)[:, 10]) < 0.6
    noisy = np.abs(np.diff(y[:, :, 0], n=2, axis=1)).min(axis=1) > 1e-7
    assert abs(np.mean(cut & noisy) - 0.25) < 0.05 and abs(np.mean(cut) - 0.5) < 0.06


def test_cut_out_zeroes_one_window_of_its_share_in_all_channels_anywhere():
    y = run(ramp(400, 3), "cut_out", strength=0.25)
    zero = y == 0
    np.testing.assert_array_equal(zero.sum(axis=1), LENGTH // 4)
    assert np.all(zero == zero[:, :, :1])
    first, last = zero[:, :, 0].argmax(axis=1), LENGTH - 1 - zero[:, ::-1, 0].argmax(axis=1)
    np.testing.assert_array_equal(last - first + 1, LENGTH // 4)  # one piece
    assert first.min() < 10 and last.max() > LENGTH - 11
    np.testing.assert_array_equal(y[~zero], np.asarray(ramp(400, 3))[~zero])


def test_magnitude_warp_is_a_smooth_curve_of_the_stated_spread_per_channel():
    curve = run(jnp.ones((2000, LENGTH, 2)), "magnitude_warp", strength=0.2, knots=4)
    np.testing.assert_allclose(curve[:, [0, -1]].std(axis=0), 0.2, rtol=0.06)  # at a knot: one normal number
    np.testing.assert_allclose(curve.mean(axis=0), 1.0, atol=0.02)
    assert np.abs(np.diff(curve, axis=1)).max() < 0.2 * 8 * 3 * np.pi / 2 / LENGTH  # no jumps
    assert abs(np.corrcoef(curve[:, 0, 0], curve[:, 0, 1])[0, 1]) < 0.1


def test_noise_is_white_with_the_stated_deviation():
    noise = run(ramp(200, 2), "gaussian_noise", strength=0.1) - ramp(200, 2)
    assert noise.std() == pytest.approx(0.1, rel=0.01) and abs(noise.mean()) < 0.002
    for lag in (1, 2, 5):
        assert abs(np.mean(noise[:, lag:] * noise[:, :-lag])) < 3e-4
    assert abs(np.mean(noise[..., 0] * noise[..., 1])) < 3e-4
    assert abs(np.mean(noise[1:] * noise[:-1])) < 3e-4


def test_cheap_normal_has_the_moments_of_a_gaussian_and_differs_by_key():
    z = np.asarray(jax.jit(lambda k: cheap_normal(k, (1000, 200)))(jax.random.key(0)))
    other = np.asarray(jax.jit(lambda k: cheap_normal(k, (1000, 200)))(jax.random.key(1)))
    assert z.mean() == pytest.approx(0, abs=0.01) and z.std() == pytest.approx(1, rel=0.01)
    assert np.mean(z**3) == pytest.approx(0, abs=0.02) and np.mean(z**4) == pytest.approx(2.7, rel=0.02)
    assert np.mean(np.abs(z) < 1) == pytest.approx(0.67, abs=0.02)
    assert abs(np.mean(z * other)) < 0.01
    rows = z - z.mean()
    assert np.abs(np.fft.rfft(rows.ravel())).max() / np.sqrt(z.size) < 5  # no tone


@pytest.mark.parametrize("groups", [1, 2])
def test_permutation_reorders_channels_alike_in_each_group(groups):
    x = jnp.broadcast_to(jnp.arange(3.0 * groups)[None, None], (600, 8, 3 * groups))
    y = run(x, "channel_permute", groups=groups).reshape(600, 8, groups, 3)
    assert np.all(y == y[:, :1])
    order = y[:, 0, 0]
    for group in range(groups):
        np.testing.assert_array_equal(y[:, 0, group], order + 3 * group)
    found, counts = np.unique(order, axis=0, return_counts=True)
    assert len(found) == 6 and np.all(np.abs(counts - 100) < 4 * np.sqrt(100))
    np.testing.assert_array_equal(np.sort(order, axis=1), np.tile([0, 1, 2], (600, 1)))


@pytest.mark.parametrize("strength", [0.03, 0.3])
def test_time_warp_runs_forward_between_fixed_ends_at_rates_near_one(strength):
    time = jnp.broadcast_to(jnp.arange(LENGTH, dtype=jnp.float32)[None, :, None], (500, LENGTH, 2))
    warped = run(time, "time_warp", strength=strength)
    np.testing.assert_allclose(warped[:, 0], 0, atol=1e-3)
    np.testing.assert_allclose(warped[:, -1], LENGTH - 1, atol=1e-3)
    rate = np.diff(warped, axis=1)
    assert rate.min() > 0
    assert 0.3 * strength < rate.std() < 1.5 * strength
    assert np.all(warped[..., 0] == warped[..., 1])  # channels stay together
    assert np.abs(warped - np.asarray(time)).max(axis=(1, 2)).min() > 1e-3


def test_time_warp_interpolates_between_neighbours():
    t = np.arange(LENGTH, dtype=np.float32)
    wave = np.sin(2 * np.pi * t / 50)
    x = jnp.asarray(np.stack([t, wave], axis=-1))[None].repeat(20, axis=0)
    y = run(x, "time_warp", strength=0.1)
    for row in y:
        np.testing.assert_allclose(row[:, 1], np.interp(row[:, 0], t, wave), atol=1e-3)


@pytest.mark.parametrize("length, strength", [(3840, 0.005), (130, 0.05)])
def test_interpolation_by_shifts_is_that_by_a_gather(length, strength):
    """The rate is slowest in the first half and fastest in the second, which is the farthest that a time can go."""
    rate = np.where(np.arange(length) < length / 2, 1 - 3 * strength, 1 + 3 * strength)
    elapsed = np.cumsum(rate) - rate[0]
    source = jnp.asarray(elapsed / elapsed[-1] * (length - 1), jnp.float32)
    farthest = np.abs(np.asarray(source) - np.arange(length)).max()
    assert farthest > 1
    x = jnp.asarray(np.random.default_rng(0).normal(size=(length, 3)), jnp.float32)
    by_shifts = functools.partial(interpolated_by_shifts, farthest=farthest, rate=rate.max() / rate.min())
    ours = jax.jit(by_shifts)(x, source)
    np.testing.assert_allclose(ours, interpolated(x, source), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name, options",
    [
        ("time_warp", {"strength": 0.005}),
        ("channel_permute", {}),
        ("clock_offset", {"strength": 8.0}),
        ("clock_offset", {"strength": 100.0, "drift_ppm": 20_000.0}),
    ],
)
def test_on_tpus_augmentations_do_the_same_without_gathers(name, options):
    """On a smooth signal: times far from 0 are rounded to 0.0002 samples, differently by each program."""
    time = np.arange(3840)
    x = jnp.asarray(np.stack([np.sin(time / period) for period in (40, 60, 90, 130)], axis=-1), jnp.float32)[None]
    specs = {name: spec_of(name, probability=1.0, **options)}

    def several(keys):
        return augment(keys, jnp.concatenate([x] * 6), specs, groups=2)

    here = jax.jit(lambda keys: several(keys))(keys_of(6))
    with platform.tracing_for("tpu"):
        traced = jax.jit(lambda keys: several(keys)).trace(keys_of(6))
        there = jax.jit(lambda keys: several(keys))(keys_of(6))
    assert " gather[" not in str(traced.jaxpr)
    np.testing.assert_allclose(there, here, atol=0 if name == "channel_permute" else 2e-5)


@pytest.mark.parametrize("name, strength", [("time_warp", 0.2), ("clock_offset", 300.0)])
def test_an_augmentation_too_strong_for_shifts_interpolates_by_a_gather_on_tpus(name, strength):
    specs = {name: spec_of(name, probability=1.0, strength=strength)}
    with platform.tracing_for("tpu"):
        jaxpr = jax.make_jaxpr(lambda keys, x: augment(keys, x, specs))(keys_of(2), ramp(2))
    assert " gather[" in str(jaxpr)


def test_a_clock_offset_moves_the_whole_segment_by_a_uniform_time():
    """On a line the value tells the time; the middle is far from the ends, which are repeated."""
    line = jnp.broadcast_to(jnp.arange(LENGTH, dtype=jnp.float32)[None, :, None], (1000, LENGTH, 2))
    y = run(line, "clock_offset", strength=8.0)
    moved = y[:, LENGTH // 2, 0] - LENGTH // 2
    assert -8 <= moved.min() < -7.8 and 7.8 < moved.max() <= 8
    assert abs(moved.mean()) < 0.6 and moved.std() == pytest.approx(8 / np.sqrt(3), rel=0.06)
    expected = np.clip(np.arange(LENGTH) + moved[:, None], 0, LENGTH - 1)
    np.testing.assert_allclose(y, np.repeat(expected[:, :, None], 2, axis=2), atol=1e-3)


def test_a_clock_drifts_from_its_offset():
    line = jnp.broadcast_to(jnp.arange(LENGTH, dtype=jnp.float32)[None, :, None], (500, LENGTH, 1))
    y = run(line, "clock_offset", strength=0.0, drift_ppm=50_000.0)[:, :, 0]
    gained = y[:, 100] - 100
    assert -5 <= gained.min() < -4.9 and 4.9 < gained.max() <= 5  # 100 samples at 5 %
    np.testing.assert_allclose(y[:, 50] - 50, gained / 2, atol=1e-3)
    np.testing.assert_array_equal(y[:, 0], 0.0)


def test_curve_weights_interpolate_between_knots():
    weights = curve_weights(31, 4)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(weights[[0, 10, 20, 30]], np.eye(4), atol=1e-6)
    np.testing.assert_allclose(weights[5], [0.5, 0.5, 0, 0], atol=1e-6)
    assert weights.min() >= 0


def test_each_segment_gets_its_own_draw():
    x = jnp.broadcast_to(jnp.asarray(np.random.default_rng(1).normal(size=(1, 64, 4)), jnp.float32), (40, 64, 4))
    distinct = {"cut_out": 12, "magnitude_warp": 30, "gaussian_noise": 30, "channel_permute": 12, "time_warp": 30}
    for name, least in distinct.items():
        assert len(np.unique(run(x, name).reshape(40, -1), axis=0)) > least, name


def test_a_segments_augmentation_does_not_depend_on_its_place_in_the_batch():
    x = jnp.asarray(np.random.default_rng(2).normal(size=(12, 64, 3)), jnp.float32)
    keys = keys_of(12)
    apply = jax.jit(lambda k, x: augment(k, x, everything()))
    whole = np.asarray(apply(keys, x))
    order = np.random.default_rng(3).permutation(12)
    np.testing.assert_array_equal(apply(keys[order], x[order]), whole[order])
    np.testing.assert_allclose(apply(keys[4:7], x[4:7]), whole[4:7], rtol=1e-5, atol=1e-6)


def test_one_segment_alone_is_augmented_like_in_a_batch_but_only_by_what_happens():
    x = jnp.asarray(np.random.default_rng(2).normal(size=(12, 64, 3)), jnp.float32)
    keys = keys_of(12)
    apply = jax.jit(lambda k, x: augment(k, x, everything()))
    alone = np.concatenate([apply(keys[row : row + 1], x[row : row + 1]) for row in range(12)])
    np.testing.assert_allclose(alone, apply(keys, x), rtol=1e-5, atol=1e-6)
    # a branch for each augmentation, not a choice between two results that are both computed
    assert str(jax.make_jaxpr(lambda k, x: augment(k, x, everything()))(keys[:1], x[:1])).count(" cond[") == len(NAMES)


@pytest.mark.parametrize("mapping", ["shard_map", "pmap"])
def test_four_devices_augment_as_one(mapping):
    x = np.random.default_rng(2).normal(size=(8, 64, 3)).astype(np.float32)
    rows = np.arange(8, dtype=np.int32)

    def fn(seed, batch):
        keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.key(seed), row))(batch["position"])
        return augment(keys, batch["x"], everything())

    results = []
    for parallel in (Parallel(mapping), Parallel(mapping, devices=jax.devices()[:1])):
        mapped = parallel.map_rows(fn)
        out = mapped(parallel.replicate(np.int32(5)), parallel.place({"x": x, "position": rows}))
        results.append(parallel.gather(out))
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5, atol=1e-6)
    assert np.any(results[0] != x, axis=(1, 2)).sum() >= 4
