"""Effective rank, alignment, uniformity and alarms on embeddings with known answers."""

import numpy as np
import pytest

from accdistill_jax.evaluation.embedding_health import alignment, health_of, singular_value_rank, uniformity


def test_effective_rank_of_known_spectra():
    rng = np.random.default_rng(0)
    left = np.linalg.qr(rng.standard_normal((200, 32)))[0]
    right = np.linalg.qr(rng.standard_normal((32, 32)))[0]
    for rank in (1, 5, 32):
        assert singular_value_rank(left[:, :rank] @ right[:rank]) == pytest.approx(rank, rel=1e-6)
    p = np.array([0.7, 0.2, 0.1])
    expected = np.exp(-np.sum(p * np.log(p)))
    assert singular_value_rank(left[:, :3] * p @ right[:3]) == pytest.approx(expected, rel=1e-9)
    assert singular_value_rank(np.zeros((10, 4))) == 0.0


def test_a_common_offset_hides_in_the_plain_rank_but_not_in_the_centred_one():
    x = np.random.default_rng(0).standard_normal((500, 16))
    assert singular_value_rank(x + 1000.0) < 1.2
    assert singular_value_rank(x + 1000.0, centred=True) == pytest.approx(
        singular_value_rank(x, centred=True), rel=1e-6
    )


def test_constant_and_collapsed_outputs_raise_an_alarm():
    rng = np.random.default_rng(0)
    good = rng.standard_normal((300, 16)).astype(np.float32)
    assert health_of(good).alarm == ""
    assert health_of(good).dead_dimensions == 0
    constant = np.tile(good[:1], (300, 1))
    for x in (
        constant,
        constant * (1 + 1e-7 * rng.standard_normal((300, 1))).astype(np.float32),
        0 * constant,
    ):
        assert "constant output" in health_of(x).alarm
    assert health_of(constant).dead_dimensions == 16
    line = good[:, :1] * good[:1] + 0.001 * good
    assert "collapsed" in health_of(line).alarm


def test_many_segments_are_sampled_with_the_seed():
    x = np.random.default_rng(0).standard_normal((6000, 8))
    assert health_of(x, seed=1) == health_of(x, seed=1) != health_of(x, seed=2)
    assert health_of(x).effective_rank == pytest.approx(8, rel=0.01)


def test_alignment_and_uniformity():
    z = np.random.default_rng(0).standard_normal((800, 64))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    assert alignment(z, z) == 0.0
    assert alignment(z, -z) == pytest.approx(4.0)
    assert uniformity(np.tile(z[:1], (50, 1))) == pytest.approx(0.0, abs=1e-9)
    pairs = [np.exp(-2 * np.sum((a - b) ** 2)) for i, a in enumerate(z[:40]) for b in z[:i]]
    assert uniformity(z[:40]) == pytest.approx(np.log(np.mean(pairs)), rel=1e-9)
    assert uniformity(z) < -3.5


def test_uniformity_is_that_of_all_people_not_of_the_first_ones():
    rng = np.random.default_rng(0)
    people = rng.standard_normal((20, 16)).repeat(250, axis=0)  # the minutes of a person stand together
    z = people + rng.standard_normal((5000, 16))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    assert health_of(z, projection=z).uniformity == pytest.approx(uniformity(z), abs=0.02)
