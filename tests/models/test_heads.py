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


@pytest.mark.slow
def test_the_product_of_windowed_projections_is_the_mean_of_the_windows_cosines():
    head, plain = ProjectionHead(hidden=8, output=4, windows=3), ProjectionHead(hidden=8, output=4)
    z = np.random.default_rng(3).normal(size=(2, 3, 5)).astype(np.float32)
    params = head.init(jax.random.key(0), z)
    first, second = np.asarray(head.apply(params, z))
    of_windows = np.asarray(plain.apply(params, z.reshape(6, 5))).reshape(2, 3, 4)
    np.testing.assert_allclose(first @ second, (of_windows[0] * of_windows[1]).sum(axis=-1).mean(), rtol=1e-4)
    np.testing.assert_allclose([first @ first, second @ second], 1, rtol=1e-5)


def test_a_window_without_tokens_does_not_count():
    head, rng = ProjectionHead(hidden=8, output=4, windows=3), np.random.default_rng(4)
    z = rng.normal(size=(1, 3, 5)).astype(np.float32)
    params = head.init(jax.random.key(0), z)
    params = jax.tree.map(lambda leaf: leaf + 0.3, params)  # biases too: the projection of zeros would not be zero
    z[:, 1] = 0
    (found,) = np.asarray(head.apply(params, z)).reshape(1, 3, 4)
    assert (found[1] == 0).all()
    np.testing.assert_allclose((found**2).sum(), 1, rtol=1e-5)
    np.testing.assert_allclose((found**2).sum(axis=1), [0.5, 0, 0.5], rtol=1e-5)


def test_a_learned_weight_is_the_size_of_a_windows_projection():
    head = ProjectionHead(hidden=8, output=4, windows=3, weighting="learned")
    plain = ProjectionHead(hidden=8, output=4, windows=3)
    z = np.random.default_rng(5).normal(size=(2, 3, 5)).astype(np.float32)
    z[1, 2] = 0
    params = head.init(jax.random.key(0), z)
    found, alike = (np.asarray(h.apply(params, z)).reshape(2, 3, 4) for h in (head, plain))
    np.testing.assert_allclose((found**2).sum(axis=(1, 2)), 1, rtol=1e-5)
    assert (found[1, 2] == 0).all()
    norms = np.linalg.norm(found, axis=2, keepdims=True)
    assert norms[0].std() > 0.01
    np.testing.assert_allclose(found[0] / norms[0], alike[0] * np.sqrt(3), rtol=1e-4, atol=1e-5)
