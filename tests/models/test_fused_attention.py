"""The attention kernels for TPU, interpreted here, against the textbook form; inside a training step; their stated work."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from accdistill_jax.benchmark.contenders.training import (
    made_up_batch,
    made_up_params,
    made_up_teacher,
)
from accdistill_jax.benchmark.model import operations, program
from accdistill_jax.config.convert import changed
from accdistill_jax.config.load import load_config
from accdistill_jax.models import attention, fused_attention
from accdistill_jax.runtime.parallel import Parallel

# Batch, tokens, width and heads: the paper's; half of its tokens; tokens that fill no register; heads of 32 and of 128; a prime batch.
SIZES = [(2, 192, 256, 4), (3, 96, 128, 2), (2, 38, 128, 2), (1, 200, 256, 8), (2, 16, 128, 1), (5, 5, 128, 4)]
QUICK = SIZES[2]


def in_form(form, heads, qkv, d_out):
    """Output and gradient, float32."""
    with attention.forced(form):
        out, back = jax.vjp(jax.jit(lambda qkv: attention.attention(qkv, heads=heads)), qkv)
        return [np.asarray(array, np.float32) for array in (out, back(d_out)[0])]


@pytest.mark.parametrize(
    "batch, tokens, width, heads",
    [pytest.param(*size, marks=() if size == QUICK else pytest.mark.slow) for size in SIZES],
)
def test_value_and_gradient_are_those_of_the_textbook(draw, batch, tokens, width, heads):
    qkv, d_out = jnp.asarray(draw(0, batch, tokens, 3 * width)), jnp.asarray(draw(1, batch, tokens, width))
    wanted = in_form(attention.TEXTBOOK, heads, qkv, d_out)
    for found, exact in zip(in_form(attention.PALLAS, heads, qkv, d_out), wanted, strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-5)
    half = in_form(attention.PALLAS, heads, qkv.astype(jnp.bfloat16), d_out.astype(jnp.bfloat16))
    for found, exact in zip(half, wanted, strict=True):
        # bfloat16 has 8 bits; inputs, weights and results are each rounded
        assert np.linalg.norm(found - exact) < 0.01 * np.linalg.norm(exact)


@pytest.mark.slow
def test_large_logits_do_not_overflow(draw):
    qkv, d_out = jnp.asarray(draw(0, 2, 24, 3 * 128)) * 100.0, jnp.asarray(draw(1, 2, 24, 128))
    for found, exact in zip(
        *(in_form(form, 4, qkv, d_out) for form in (attention.PALLAS, attention.TEXTBOOK)), strict=True
    ):
        assert np.isfinite(found).all() and np.linalg.norm(found - exact) < 1e-4 * np.linalg.norm(exact)


@pytest.mark.slow
@pytest.mark.parametrize("mapping", ["shard_map", "pmap"])
def test_a_training_step_with_the_kernels_is_that_with_the_textbook(mapping):
    sizes = {"width": 128, "heads": 2, "depth": 1, "mlp": 64, "positions": "sinusoidal"}
    changes = {
        f"{stage}.encoder.transformer.{key}": value for stage in ("student", "teacher") for key, value in sizes.items()
    }
    config = changed(load_config("distill:smoke-mean"), changes | {"runtime.mapping": mapping})
    work, parallel = program.describe_work(config, "student"), Parallel(mapping, devices=jax.devices()[:2])
    params, frozen = made_up_params(work.params, seed=2), made_up_teacher(work.frozen)
    batch = made_up_batch(work, 4)
    metrics = []
    for form in (attention.PALLAS, attention.TEXTBOOK):
        with attention.forced(form):
            built = program.build_program(work, parallel)
            state, measured = built.step(
                built.start(params, parallel), parallel.replicate(frozen), parallel.place(batch)
            )
        metrics.append({name: np.asarray(value).reshape(-1)[0] for name, value in measured.items()})
    assert metrics[0].keys() == metrics[1].keys() and metrics[0]["gradient_norm"] > 0
    for name, value in metrics[0].items():
        np.testing.assert_allclose(value, metrics[1][name], rtol=1e-4, err_msg=name)


def test_kernels_state_the_work_of_attention_without_that_of_their_zeros():
    batch, tokens, width, heads = SIZES[0]
    shape = jax.ShapeDtypeStruct((batch, tokens, 3 * width), jnp.bfloat16)
    traced = jax.make_jaxpr(jax.grad(lambda a: jnp.sum(fused_attention.fused(heads, False, a).astype(jnp.float32))))(
        shape
    )
    # 2 products forward and 5 backward, of [tokens, tokens] with the width of all heads
    assert operations.traced_flops(traced.jaxpr) == 7 * 2 * batch * tokens**2 * width
    kernels = operations.find_kernels(traced.jaxpr).values()
    assert {kernel.name for kernel in kernels} == {"forward_attention", "backward_attention"}
    assert kernels and all(kernel.shapes[0].shape == shape.shape for kernel in kernels)
