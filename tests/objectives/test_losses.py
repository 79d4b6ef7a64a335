import jax
import jax.numpy as jnp
import numpy as np
import pytest

from accdistill_jax.objectives.losses import effective_rank, info_nce, koleo
from accdistill_jax.runtime import platform
from accdistill_jax.runtime.parallel import AXIS, Parallel


def unit_rows(seed, rows=8, width=5):
    z = np.random.default_rng(seed).normal(size=(rows, width))
    return (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32)


def by_hand(query, key, temperature):
    """InfoNCE and its gradients from their definition, in float64, without automatic differentiation."""
    query, key = query.astype(np.float64), key.astype(np.float64)
    logits = query @ key.T / temperature
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    softmax = odds / odds.sum(axis=1, keepdims=True)
    slope = (softmax - np.eye(len(query))) / len(query) / temperature
    return -np.mean(np.log(np.diag(softmax))), slope @ key, slope.T @ query


@pytest.mark.parametrize("temperature", [0.04, 1.0])
def test_info_nce_agrees_with_its_definition(temperature):
    query, key = unit_rows(0), unit_rows(1)
    loss = lambda q, k: info_nce(q, k, temperature=temperature)
    value, gradient = jax.jit(jax.value_and_grad(loss, (0, 1)))(query, key)
    wanted, *wanted_gradient = by_hand(query, key, temperature)
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    for a, b in zip(gradient, wanted_gradient, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_info_nce_agrees_with_pytorch():
    torch = pytest.importorskip("torch")
    query, key = unit_rows(2), unit_rows(3)
    q, k = (torch.tensor(a, requires_grad=True) for a in (query, key))
    wanted = torch.nn.functional.cross_entropy(q @ k.T / 0.1, torch.arange(len(query)))
    wanted.backward()
    value, gradient = jax.value_and_grad(lambda q, k: info_nce(q, k, temperature=0.1), (0, 1))(query, key)
    np.testing.assert_allclose(value, wanted.item(), rtol=1e-5)
    np.testing.assert_allclose(gradient[0], q.grad.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradient[1], k.grad.numpy(), rtol=1e-4, atol=1e-5)


def test_info_nce_for_tpus_has_the_same_value_and_gradient_without_a_gather():
    rows = [jnp.asarray(np.random.default_rng(seed).normal(size=(6, 5)), jnp.float32) for seed in (0, 1)]

    def both():
        loss = jax.value_and_grad(lambda query, key: info_nce(query, key, temperature=0.1), argnums=(0, 1))
        return str(jax.make_jaxpr(loss)(*rows)), jax.tree.leaves(loss(*rows))

    _, here = both()
    with platform.tracing_for("tpu"):
        jaxpr, there = both()
    assert "gather" not in jaxpr and "scatter" not in jaxpr
    for ours, wanted in zip(there, here, strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-6, atol=1e-6)


def test_koleo_for_tpus_has_the_same_value_and_gradient_without_a_gather():
    z = jnp.asarray(unit_rows(4))
    wanted, wanted_gradient = jax.value_and_grad(koleo)(z)
    with platform.tracing_for("tpu"):
        value, gradient = jax.value_and_grad(lambda z: koleo(z))(z)
        text = str(jax.make_jaxpr(jax.grad(lambda z: koleo(z)))(z))
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    np.testing.assert_allclose(gradient, wanted_gradient, rtol=1e-5, atol=1e-6)
    assert "gather" not in text and "scatter" not in text


def test_info_nce_of_indistinct_keys_is_chance_and_of_its_own_direction_lower():
    query = unit_rows(4)
    np.testing.assert_allclose(info_nce(query, query[:1].repeat(8, axis=0), temperature=0.1), np.log(8), rtol=1e-6)
    assert info_nce(query, query, temperature=0.04) < 0.5 < info_nce(query, query[::-1], temperature=0.04)


@pytest.mark.parametrize("mapping", ["shard_map", "pmap"])
def test_global_batch_over_devices_is_the_single_device_loss(mapping):
    """Value and gradient of shared weights, with the mean over devices that the training step takes."""
    a, b = unit_rows(5, width=6), unit_rows(6, width=7)
    rng = np.random.default_rng(7)
    weights = {
        "a": rng.normal(size=(6, 4)).astype(np.float32),
        "b": rng.normal(size=(7, 4)).astype(np.float32),
    }
    parallel = Parallel(mapping)
    assert parallel.num_devices == 4

    def project(x, w):
        h = x @ w
        return h / jnp.linalg.norm(h, axis=1, keepdims=True)

    def loss(w, batch, axis_name):
        q, k = project(batch["a"], w["a"]), project(batch["b"], w["b"])
        forth = info_nce(q, k, temperature=0.1, axis_name=axis_name)
        return 0.7 * forth + 0.3 * info_nce(k, q, temperature=0.1, axis_name=axis_name)

    def step(w, frozen, batch):
        return w, jax.lax.pmean(jax.value_and_grad(loss)(w, batch, AXIS), AXIS)

    batch = {"a": a, "b": b}
    _, mapped = parallel.map(step)(parallel.replicate(weights), parallel.replicate({}), parallel.place(batch))
    value, gradient = parallel.fetch(mapped)
    wanted, wanted_gradient = jax.jit(jax.value_and_grad(lambda w: loss(w, batch, None)))(weights)
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    for name in weights:
        assert np.abs(wanted_gradient[name]).max() > 1e-2
        np.testing.assert_allclose(gradient[name], wanted_gradient[name], rtol=1e-4, atol=1e-5)
    # over each device's own rows alone the loss would be another
    local = np.mean([loss(weights, {k: v[i : i + 2] for k, v in batch.items()}, None) for i in (0, 2, 4, 6)])
    assert abs(local - wanted) > 0.1


def test_effective_rank_counts_directions():
    z = np.random.default_rng(0).normal(size=(4000, 6)).astype(np.float32)
    rank = lambda z: float(effective_rank(jnp.asarray(z)))
    assert rank(z) == pytest.approx(6, rel=0.01)
    assert rank(z * [1, 1, 1, 0, 0, 0]) == pytest.approx(3, rel=0.01)
    assert rank(z[:, :1] * np.ones(6)) == pytest.approx(1, rel=0.01)
    spectrum = np.linalg.eigvalsh(np.cov((z * np.arange(1, 7)).T))
    p = spectrum / spectrum.sum()
    assert rank(z * np.arange(1, 7)) == pytest.approx(np.exp(-np.sum(p * np.log(p))), rel=0.01)
    assert np.isfinite(rank(np.zeros((5, 6))))
