import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from accdistill_jax.config.schema import TrainConfig
from accdistill_jax.errors import UserError
from accdistill_jax.training.optimizer import decay_mask, make_optimizer, make_schedule

TRAIN = TrainConfig(
    optimizer="adamw",
    batch_size=4,
    learning_rate=1e-2,
    warmup="4 steps",
    final_learning_rate_fraction=0.1,
    weight_decay=0.3,
    b1=0.9,
    b2=0.95,
    clip_norm=0.5,
)

KERNEL = {"kernel": np.ones((2, 2), np.float32)}


def changed(**values):
    return dataclasses.replace(TRAIN, **values)


def test_schedule_warms_up_linearly_then_follows_a_cosine_to_its_floor():
    schedule = make_schedule(learning_rate=2.0, warmup_steps=10, total_steps=110, final_learning_rate_fraction=0.25)
    np.testing.assert_allclose([schedule(s) for s in (0, 5, 10)], [0.0, 1.0, 2.0], rtol=1e-6)
    middle = 0.5 + 0.5 * (2.0 - 0.5)
    np.testing.assert_allclose([schedule(s) for s in (60, 110, 500)], [middle, 0.5, 0.5], rtol=1e-5)


def test_schedule_without_warm_up_starts_at_the_peak():
    schedule = make_schedule(learning_rate=2.0, warmup_steps=0, total_steps=10, final_learning_rate_fraction=0.0)
    assert float(schedule(0)) == 2.0


@pytest.mark.parametrize("warmup", ["10 steps", "40 examples", "1 epochs"])
def test_warm_up_as_long_as_the_training_is_refused(warmup):
    with pytest.raises(UserError, match="train.warmup"):
        make_optimizer(changed(warmup=warmup), KERNEL, total_steps=10, num_segments=40)


def test_decay_reaches_kernels_only():
    params = {
        "qkv": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)},
        "norm": {"scale": jnp.ones(4)},
        "stacked": {"bias": jnp.ones((2, 4))},
        "position_embedding": jnp.ones((5, 4)),
        "mask_token": jnp.ones((1, 4)),
        "logit": jnp.ones(()),
    }
    mask = decay_mask(params)
    decayed = {jax.tree_util.keystr(path) for path, leaf in jax.tree_util.tree_leaves_with_path(mask) if leaf}
    assert decayed == {"['qkv']['kernel']"}


def test_update_equals_adamw_written_out():
    """Clipped gradients, bias-corrected moments and decoupled decay, in numpy, for several steps."""
    rng = np.random.default_rng(0)
    params = {"kernel": rng.normal(size=(3, 2)).astype("f4"), "bias": rng.normal(size=2).astype("f4")}
    gradients = [{name: rng.normal(size=value.shape).astype("f4") for name, value in params.items()} for _ in range(6)]
    optimizer = make_optimizer(TRAIN, params, total_steps=20)
    ours, state = dict(params), optimizer.transform.init(params)
    for gradient in gradients:
        updates, state = optimizer.transform.update(gradient, state, ours)
        ours = optax.apply_updates(ours, updates)

    expected = {name: value.astype("f8") for name, value in params.items()}
    mu = {name: 0.0 for name in params}
    nu = {name: 0.0 for name in params}
    for step, gradient in enumerate(gradients):
        norm = np.sqrt(sum(np.sum(np.square(g.astype("f8"))) for g in gradient.values()))
        rate = float(optimizer.schedule(step))
        for name in params:
            g = gradient[name] * min(1.0, TRAIN.clip_norm / norm)
            mu[name] = 0.9 * mu[name] + 0.1 * g
            nu[name] = 0.95 * nu[name] + 0.05 * g**2
            move = (mu[name] / (1 - 0.9 ** (step + 1))) / (np.sqrt(nu[name] / (1 - 0.95 ** (step + 1))) + 1e-8)
            decay = 0.3 * expected[name] if name == "kernel" else 0.0
            expected[name] = expected[name] - rate * (move + decay)
    for name in params:
        np.testing.assert_allclose(ours[name], expected[name], rtol=2e-5, atol=1e-6)


def test_clip_norm_zero_leaves_gradients_alone():
    """Adam's direction forgets a common factor, its second moment does not."""
    gradient = {"kernel": jnp.full((2, 2), 100.0)}
    moments = {}
    for clip in (0.0, 1.0):
        transform = make_optimizer(changed(clip_norm=clip), gradient, total_steps=20).transform
        state = transform.update(gradient, transform.init(gradient), gradient)[1]
        moments[clip] = float(optax.tree_utils.tree_get(state, "mu")["kernel"][0, 0])
    np.testing.assert_allclose(moments[0.0], 10.0, rtol=1e-6)
    np.testing.assert_allclose(moments[1.0], 0.05, rtol=1e-6)
