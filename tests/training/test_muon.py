"""Muon: its update written out, and a training with it that learns, stops and continues to the same bits."""

import dataclasses
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from accdistill_jax.config.schema import TrainConfig
from accdistill_jax.config.tree import Options
from accdistill_jax.errors import UserError
from accdistill_jax.runtime.interrupt import Interrupted
from accdistill_jax.runtime.parallel import Parallel
from accdistill_jax.training.muon import orthogonalise
from accdistill_jax.training.optimizer import make_optimizer
from accdistill_jax.training.optimizer_state import make_layout
from accdistill_jax.training.registered import MuonOptions
from tests.training.linear_stage import SETTINGS, batches_then_signal, first_params, metrics_of, run, same_bits

TRAIN = TrainConfig(
    optimizer="muon",
    optimizers=Options({"muon": MuonOptions(momentum=0.9)}),
    batch_size=8,
    learning_rate=2e-2,
    warmup="0 steps",
    final_learning_rate_fraction=1.0,
    weight_decay=0.3,
    b1=0.8,
    b2=0.95,
    clip_norm=0.0,
)


def matrix(m, n, seed=0):
    return np.random.default_rng(seed).normal(size=(m, n)).astype(np.float32)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5), (1, 7)])
def test_singular_values_go_towards_one_and_vectors_stay(shape):
    whole = matrix(*shape)
    u, _, v = np.linalg.svd(whole, full_matrices=False)
    found = np.asarray(orthogonalise(whole, steps=5))
    inner = u.T @ found @ v.T
    assert ((np.diag(inner) > 0.6) & (np.diag(inner) < 1.3)).all()
    np.testing.assert_allclose(inner - np.diag(np.diag(inner)), 0.0, atol=1e-4)


def test_a_zero_gradient_is_no_direction():
    np.testing.assert_array_equal(orthogonalise(jnp.zeros((3, 2)), steps=5), np.zeros((3, 2)))


def test_update_equals_muon_written_out():
    """Matrices by momentum and Newton-Schulz in float64; all else, depthwise filters among it, by Adam."""
    params = {"kernel": matrix(3, 5), "depthwise": {"kernel": matrix(3, 4)}, "bias": matrix(1, 5)[0]}
    gradients = [jax.tree.map(lambda p, k=k: matrix(1, p.size, seed=k).reshape(p.shape), params) for k in range(1, 5)]
    transform = make_optimizer(TRAIN, params, total_steps=20).transform
    ours, state = params, transform.init(params)
    adam = make_optimizer(dataclasses.replace(TRAIN, optimizer="adamw"), params, total_steps=20).transform
    by_adam, adam_state = params, adam.init(params)
    expected, average = params["kernel"].astype(np.float64), 0.0
    for gradient in gradients:
        updates, state = transform.update(gradient, state, ours)
        ours = optax.apply_updates(ours, updates)
        updates, adam_state = adam.update(gradient, adam_state, by_adam)
        by_adam = optax.apply_updates(by_adam, updates)
        average = 0.9 * average + 0.1 * gradient["kernel"].astype(np.float64)
        x = 0.9 * average + 0.1 * gradient["kernel"]
        x /= np.linalg.norm(x)
        for _ in range(5):
            square = x @ x.T
            x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
        expected -= 2e-2 * (0.2 * np.sqrt(5) * x + 0.3 * expected)
    np.testing.assert_allclose(ours["kernel"], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(ours["bias"], by_adam["bias"])
    np.testing.assert_array_equal(ours["depthwise"]["kernel"], by_adam["depthwise"]["kernel"])
    assert np.abs(ours["kernel"] - by_adam["kernel"]).max() > 1e-3


def test_matrices_have_one_moment_and_other_parameters_two():
    params = {"kernel": matrix(3, 5), "bias": matrix(1, 5)[0]}
    state = make_optimizer(TRAIN, params, total_steps=20).transform.init(params)
    sizes = sorted(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim)
    assert sizes == [5, 5, 15]


def test_the_state_of_adamw_is_that_of_optax():
    """Checkpoints from before there was a choice continue."""
    params = {"kernel": matrix(3, 5), "bias": matrix(1, 5)[0]}
    settings = dataclasses.replace(TRAIN, optimizer="adamw", clip_norm=1.0)
    found = make_optimizer(settings, params, total_steps=20)
    theirs = optax.adamw(found.schedule, b1=0.8, b2=0.95, weight_decay=0.3, mask={"kernel": True, "bias": False})
    state = found.transform.init(params)
    assert jax.tree.structure(state[1]) == jax.tree.structure(theirs.init(params))
    small = jax.tree.map(lambda p: 0.01 * p, params)
    ours, _ = found.transform.update(small, state, params)
    same_bits(ours, theirs.update(small, theirs.init(params), params)[0])


def test_an_unknown_optimizer_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match="no optimizer 'mouon'.*did you mean muon"):
        make_optimizer(dataclasses.replace(TRAIN, optimizer="mouon"), first_params(), total_steps=9)


@pytest.mark.slow
@pytest.mark.parametrize("shards", [0, 4])
def test_a_stopped_and_continued_training_equals_the_uninterrupted_bit_for_bit_and_learns(tmp_path, shards):
    settings = SETTINGS._replace(total_steps=12, ema_decay=0.9, micro_batches=2, validate_every=3)

    def stage(folder, **options):
        layout = make_layout(TRAIN, first_params(), total_steps=12, num_segments=96, shards=shards)
        return run(folder, settings=settings, layout=layout, parallel=Parallel(), **options)

    whole = stage(tmp_path / "whole")
    with pytest.raises(Interrupted, match="SIGTERM; step 5 is saved"):
        stage(tmp_path / "parts", batches=batches_then_signal(signal.SIGTERM, at=5, total=12))
    same_bits(whole, stage(tmp_path / "parts"))
    assert metrics_of(tmp_path / "whole") == metrics_of(tmp_path / "parts")
    losses = [record["loss"] for record in metrics_of(tmp_path / "whole") if record["kind"] == "validation"]
    assert np.isfinite(losses).all() and losses[-1] < losses[0] < 3.0
