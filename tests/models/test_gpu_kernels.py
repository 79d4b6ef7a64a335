"""Kernels for GPUs, interpreted: the numbers of the forms that they replace."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from accdistill_jax.models import gpu_kernels, ops
from accdistill_jax.models.transformer import Block
from accdistill_jax.runtime.platform import tracing_for

ROWS, WIDTH, INNER = 96, 32, 64


@pytest.fixture
def random():
    return np.random.default_rng(5)


def array(random, *shape, dtype=jnp.float32):
    return jnp.asarray(random.normal(size=shape), dtype)


def largest_difference(tree, other):
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True)
    return max(float(jnp.max(jnp.abs(a.astype(jnp.float32) - b.astype(jnp.float32)))) for a, b in pairs)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 0.04)])
def test_layer_norm_and_its_gradients_are_those_of_flax(random, dtype, tolerance):
    x, to_kept, to_out = (array(random, ROWS, WIDTH, dtype=dtype) for _ in range(3))
    scale, offset = array(random, WIDTH), array(random, WIDTH)

    def flax(x, scale, offset):
        return x, nn.LayerNorm().apply({"params": {"scale": scale, "bias": offset}}, x).astype(dtype)

    outs, gradients = [], []
    for form in (flax, lambda *arrays: gpu_kernels.norm_beside_residual(*arrays, dtype)):
        out, back = jax.vjp(form, 0.3 + 2 * x, scale, offset)
        outs.append(out)
        gradients.append(back((to_kept, to_out)))
    assert largest_difference(*outs) <= tolerance
    assert [a.dtype for a in gradients[0]] == [a.dtype for a in gradients[1]]
    sums = max(float(jnp.max(jnp.abs(a))) for a in gradients[0][1:])
    assert largest_difference(gradients[0][:1], gradients[1][:1]) <= tolerance
    assert largest_difference(gradients[0][1:], gradients[1][1:]) <= 1e-5 * sums


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 0.02)])
def test_gradients_of_an_mlp_are_those_without_kernels(random, dtype, tolerance):
    arguments = [
        array(random, ROWS, WIDTH, dtype=dtype),
        array(random, WIDTH, INNER, dtype=dtype) / 8,
        array(random, INNER, dtype=dtype),
        array(random, INNER, WIDTH, dtype=dtype) / 8,
        array(random, WIDTH, dtype=dtype),
    ]
    weights = array(random, ROWS, WIDTH, dtype=dtype)
    calls = []
    gradients = []
    for kernels in ((), (gpu_kernels.GELU,)):
        with tracing_for("gpu"), gpu_kernels.used(*kernels):
            loss = jax.grad(lambda *a: jnp.sum((ops.mlp(*a) * weights).astype(jnp.float32)), argnums=range(5))
            calls.append(str(jax.make_jaxpr(loss)(*arguments)).count("pallas_call"))
            gradients.append(loss(*arguments))
    assert calls == [0, 1]
    scale = max(float(jnp.max(jnp.abs(a))) for a in gradients[0])
    assert largest_difference(*gradients) <= tolerance * scale


def test_a_block_with_kernels_has_the_parameters_and_gradients_of_one_without(random):
    x, weights = array(random, 4, 24, WIDTH), array(random, 4, 24, WIDTH)
    with tracing_for("gpu"):
        block = Block(heads=2, mlp=INNER)
        params = block.init(jax.random.key(0), x)
        gradients = []
        for names in ((), (gpu_kernels.NORM, gpu_kernels.GELU)):
            with gpu_kernels.used(*names):
                assert jax.tree.structure(block.init(jax.random.key(0), x)) == jax.tree.structure(params)
                loss = jax.grad(lambda p, x: jnp.sum(block.apply(p, x) * weights), argnums=(0, 1))
                gradients.append(loss(params, x))
    for a, b in zip(*map(jax.tree.leaves, gradients), strict=True):
        assert float(jnp.max(jnp.abs(a - b))) <= 1e-5 * float(jnp.max(jnp.abs(a)))


def test_no_kernel_is_used_unless_asked_for_and_for_sizes_that_fit(random):
    assert not gpu_kernels.chosen(gpu_kernels.NORM, ROWS, WIDTH)
    with gpu_kernels.used(gpu_kernels.NORM):
        assert gpu_kernels.chosen(gpu_kernels.NORM, ROWS, WIDTH)
        assert not gpu_kernels.chosen(gpu_kernels.GELU, ROWS, WIDTH)
        assert not gpu_kernels.chosen(gpu_kernels.NORM, ROWS, 96) and not gpu_kernels.chosen(gpu_kernels.NORM, 100, 32)
    with pytest.raises(ValueError, match="no kernel 'softmax'"), gpu_kernels.used("softmax"):
        pass
