import jax
import numpy as np
import pytest


def _draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _scattered(module, *arguments):
    shapes = jax.eval_shape(module.init, jax.random.key(0), *arguments)["params"]
    leaves, tree = jax.tree_util.tree_flatten_with_path(shapes)
    is_scale = [path[-1].key == "scale" for path, _ in leaves]
    return tree.unflatten(
        s + 0.3 * _draw(i, *a.shape) for i, ((_, a), s) in enumerate(zip(leaves, is_scale, strict=True))
    )


@pytest.fixture(scope="session")
def draw():
    """`draw(seed, *shape)`: float32 numpy noise."""
    return _draw


@pytest.fixture(scope="session")
def scattered():
    """`scattered(module, *arguments)`: noise for all parameters, zero-initialised ones too, so that each counts."""
    return _scattered
