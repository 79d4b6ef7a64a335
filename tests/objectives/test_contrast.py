"""Forms of the contrastive loss: a learned temperature within bounds, and the pairwise sigmoid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from accdistill_jax.objectives.contrast import CrossModalContrast
from accdistill_jax.objectives.losses import info_nce, pairwise_sigmoid
from accdistill_jax.runtime.parallel import AXIS, Parallel

ROWS = 8
SIGMOID = CrossModalContrast(0.1, 0.5, "sigmoid", (0.01, 1.0), -2.0)
LEARNED = CrossModalContrast(0.1, 0.7, temperature_bounds=(0.01, 1.0))


def unit_rows(seed, width=5):
    z = np.random.default_rng(seed).normal(size=(ROWS, width))
    return (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32)


def sigmoid_by_hand(query, key, temperature, bias):
    """Value and slopes by temperature and bias from the definition, in float64."""
    similarity = query.astype(np.float64) @ key.astype(np.float64).T
    sign = 2 * np.eye(ROWS) - 1
    logits = similarity / temperature + bias
    value = -np.sum(np.log(1 / (1 + np.exp(-sign * logits)))) / ROWS
    slope = -sign / (1 + np.exp(sign * logits)) / ROWS
    return value, np.sum(slope * -similarity / temperature**2), np.sum(slope)


def test_the_sigmoid_loss_agrees_with_its_definition_and_has_no_direction():
    query, key = unit_rows(0), unit_rows(1)
    loss = lambda t, b: pairwise_sigmoid(query, key, temperature=t, bias=b)
    value, slopes = jax.jit(jax.value_and_grad(loss, (0, 1)))(0.1, -2.0)
    np.testing.assert_allclose([value, *slopes], sigmoid_by_hand(query, key, 0.1, -2.0), rtol=1e-4)
    np.testing.assert_allclose(pairwise_sigmoid(key, query, temperature=0.1, bias=-2.0), value, rtol=1e-5)


def test_scalars_enter_the_loss_and_the_metrics():
    rows = {"teacher": unit_rows(2), "student": unit_rows(3)}
    params = {"contrast": {"log_temperature": np.float32(np.log(0.3)), "bias": np.float32(-1.5)}}
    value, metrics = SIGMOID(rows | SIGMOID.rows(params, ROWS), None)
    np.testing.assert_allclose(value, sigmoid_by_hand(rows["student"], rows["teacher"], 0.3, -1.5)[0], rtol=1e-4)
    assert float(metrics["temperature"]) == pytest.approx(0.3) and metrics["contrast_bias"] == -1.5
    value, metrics = LEARNED(rows | LEARNED.rows(params, ROWS), None)
    forth, back = (
        info_nce(*(rows[name] for name in names), temperature=0.3)
        for names in (("teacher", "student"), ("student", "teacher"))
    )
    np.testing.assert_allclose(value, 0.7 * forth + 0.3 * back, rtol=1e-5)
    assert float(metrics["temperature"]) == pytest.approx(0.3)


def test_scalars_begin_where_the_config_says_and_only_if_they_are_trained():
    start = SIGMOID.with_scalars({"encoder": 1})
    np.testing.assert_allclose(start["contrast"]["log_temperature"], np.log(0.1), rtol=1e-6)
    assert start["contrast"]["bias"] == -2.0 and start["encoder"] == 1
    assert set(LEARNED.with_scalars({})["contrast"]) == {"log_temperature"}
    assert set(CrossModalContrast(0.1, 0.5, "sigmoid").with_scalars({})["contrast"]) == {"bias"}
    assert CrossModalContrast(0.1, 0.5).with_scalars({"encoder": 1}) == {"encoder": 1}


@pytest.mark.parametrize("given,kept", [(5.0, 1.0), (0.001, 0.01), (0.2, 0.2)])
def test_the_temperature_stays_in_its_bounds(given, kept):
    params = {"encoder": 1, "contrast": {"log_temperature": np.float32(np.log(given)), "bias": np.float32(-30)}}
    after = SIGMOID.constrained(params)
    np.testing.assert_allclose(np.exp(after["contrast"]["log_temperature"]), kept, rtol=1e-5)
    assert after["contrast"]["bias"] == -30 and after["encoder"] == 1


@pytest.mark.parametrize("mapping", ["shard_map", "pmap"])
@pytest.mark.parametrize("contrast", [SIGMOID, LEARNED], ids=["sigmoid", "learned temperature"])
def test_over_devices_value_and_gradient_are_those_of_one(contrast, mapping):
    weights = contrast.with_scalars({"w": np.random.default_rng(4).normal(size=(5, 4)).astype(np.float32)})
    batch = {"teacher": unit_rows(5), "student": unit_rows(6)}

    def loss(params, batch, axis_name):
        rows = {name: z @ params["w"] for name, z in batch.items()}
        rows = {name: z / jnp.linalg.norm(z, axis=1, keepdims=True) for name, z in rows.items()}
        return contrast(rows | contrast.rows(params, len(rows["student"])), axis_name)[0]

    def step(params, frozen, batch):
        return params, jax.lax.pmean(jax.value_and_grad(loss)(params, batch, AXIS), AXIS)

    parallel = Parallel(mapping)
    assert parallel.num_devices == 4
    _, mapped = parallel.map(step)(parallel.replicate(weights), parallel.replicate({}), parallel.place(batch))
    wanted = jax.jit(jax.value_and_grad(lambda params: loss(params, batch, None)))(weights)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), parallel.fetch(mapped), wanted)
    assert all(np.abs(slope).max() > 1e-3 for slope in jax.tree.leaves(wanted[1]))
