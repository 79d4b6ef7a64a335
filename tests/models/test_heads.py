import jax
import jax.numpy as jnp
import numpy as np
import pytest

from accdistill_jax.models.heads import ProjectionHead


def test_projection_is_a_two_layer_network_onto_the_unit_sphere():
    torch = pytest.importorskip("torch")
    z = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    head = ProjectionHead(hidden=8, output=4)
    params = head.init(jax.random.key(0), z)["params"]
    p = jax.tree.map(lambda a: torch.tensor(np.array(a)), params)
    h = torch.tensor(z) @ p["hidden"]["kernel"] + p["hidden"]["bias"]
    h = torch.nn.functional.gelu(h, approximate="tanh") @ p["output"]["kernel"] + p["output"]["bias"]
    ours = head.apply({"params": params}, z)
    np.testing.assert_allclose(ours, torch.nn.functional.normalize(h).numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1.0, rtol=1e-5)


def test_zero_embedding_has_finite_projection_and_gradient():
    head = ProjectionHead(hidden=8, output=4)
    z = jnp.zeros((2, 6))
    params = head.init(jax.random.key(0), z)["params"]
    value, gradient = jax.value_and_grad(lambda z: jnp.sum(head.apply({"params": params}, z)))(z)
    assert np.isfinite(value) and np.all(np.isfinite(gradient))


def test_half_precision_embeddings_are_projected_in_float32():
    head = ProjectionHead(hidden=8, output=4)
    z = jnp.ones((2, 6), jnp.bfloat16)
    variables = head.init(jax.random.key(0), z)
    assert head.apply(variables, z).dtype == jnp.float32
