"""The door of the inputs: what is presented, and shapes that are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from accdistill_jax.inputs.prepare import InputSettings, prepare_inputs
from accdistill_jax.inputs.present import band_groups, present, shifted
from accdistill_jax.inputs.registered import Augmentation
from accdistill_jax.runtime.platform import tracing_for

ROWS, LENGTH = 4, 96
NOISE = {"gaussian_noise": Augmentation(1.0, 0.3)}


def batch(**changes):
    signals = {"position": np.arange(ROWS, dtype=np.int32)}
    for name, channels in (("ppg", 2), ("accel", 3)):
        signals[name] = np.random.default_rng(channels).integers(-900, 900, (ROWS, LENGTH, channels)).astype(np.int16)
        signals[f"{name}_scale"] = np.full((ROWS, channels), 1e-3, np.float32)
        signals[f"{name}_offset"] = np.zeros((ROWS, channels), np.float32)
    return signals | changes


def keys(rows=ROWS):
    return jax.random.split(jax.random.key(0), rows)


def test_modalities_are_augmented_in_training_only_and_independently():
    settings = InputSettings()
    show = lambda modality, training: np.asarray(present(batch(), keys(), modality, settings, NOISE, training=training))
    for modality in ("ppg", "accel"):
        plain = np.asarray(prepare_inputs(batch(), modality, settings))
        np.testing.assert_allclose(show(modality, False), plain, atol=1e-5)
        assert np.abs(show(modality, True) - plain).mean() > 0.1
    noise = [show(modality, True) - show(modality, False) for modality in ("ppg", "accel")]
    assert abs(np.corrcoef(noise[0][..., 0].ravel(), noise[1][..., 0].ravel())[0, 1]) < 0.2


def test_a_shift_is_the_same_for_both_sensors_and_another_for_each_segment():
    largest, signals, show = 5, batch(), {}
    for name in ("ppg", "accel"):
        show[name] = np.asarray(jax.jit(lambda keys, name=name: shifted(signals, keys, name, largest))(keys())[name])
    shifts = []
    for row in range(ROWS):
        padded = {name: np.pad(signals[name][row], ((largest, largest), (0, 0)), mode="edge") for name in show}
        fits = [
            start
            for start in range(2 * largest + 1)
            if all(np.array_equal(show[name][row], padded[name][start : start + LENGTH]) for name in show)
        ]
        shifts += fits
    assert len(shifts) == ROWS and len(set(shifts)) > 1
    with tracing_for("tpu"):
        traced = jax.make_jaxpr(lambda keys: shifted(signals, keys, "ppg", largest)["ppg"])(keys())
        np.testing.assert_array_equal(shifted(signals, keys(), "ppg", largest)["ppg"], show["ppg"])
    assert "gather" not in str(traced)
    drawn = jax.vmap(lambda seed: jax.random.key(seed))(np.arange(500))
    ramp = {"ppg": jnp.broadcast_to(jnp.arange(40)[None, :, None], (500, 40, 1))}
    middle = np.asarray(shifted(ramp, drawn, "ppg", largest)["ppg"])[:, 20, 0] - 20
    assert set(middle) == set(range(-largest, largest + 1)) and abs(middle.mean()) < 0.5


@pytest.mark.parametrize(
    "bands,groups",
    [("full", 1), ("high", 1), ("low+high", 2), ("low+high+envelope", 3), ("full+breathing", 2), ("low+high+beat", 3)],
)
def test_each_band_is_a_group_of_channels(bands, groups):
    settings = InputSettings(bands=bands)
    assert band_groups(settings) == groups
    assert present(batch(), keys(), "accel", settings, {}, training=True).shape == (ROWS, LENGTH, 3 * groups)


@pytest.mark.parametrize(
    "changes,key_count",
    [
        ({"accel": np.zeros((ROWS, LENGTH), np.int16)}, ROWS),
        ({"accel_scale": np.ones((ROWS, 2), np.float32)}, ROWS),
        ({"accel_offset": np.zeros((ROWS - 1, 3), np.float32)}, ROWS),
        ({}, ROWS - 1),
    ],
    ids=["signal without channels", "scale of other channels", "offset of other rows", "keys of other rows"],
)
def test_shapes_that_do_not_belong_together_are_refused(changes, key_count):
    with pytest.raises(AssertionError, match="shape|rank"):
        present(batch(**changes), keys(key_count), "accel", InputSettings(), {}, training=True)


def test_the_shapes_are_checked_while_tracing():
    """The check costs nothing in a compiled step."""
    shapes = jax.eval_shape(lambda: jnp.zeros((ROWS, LENGTH)))
    with pytest.raises(AssertionError, match="rank"):
        jax.eval_shape(lambda x: present(batch(accel=x), keys(), "accel", InputSettings(), {}, training=True), shapes)
