"""ResNet1D, the encoder of two open PPG models, for inference with given weights.

Source: Hong et al. 2020, "HOLMES: Health OnLine Model Ensemble Serving" (pre-activation residual network on one channel of
time). The sizes and heads of the two models: Pillai et al. 2024, "PaPaGei" (arXiv 2410.20542); Saha et al. 2025, "Pulse-PPG"
(doi 10.1145/3749494). Written from these descriptions.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from accdistill_jax.errors import UserError

DOWNSAMPLE_EVERY = 2  # blocks; the second of each pair halves the time
WIDEN_EVERY = 4  # blocks; after them the filters double
STRIDE = 2
_EPSILON = 1e-5  # of batch and instance normalisation in PyTorch
_BLOCK = re.compile(r"basicblock_list\.(\d+)\.conv1\.conv\.weight")


class Affine(nn.Module):
    """A scale and an offset for each channel: batch normalisation with fixed statistics."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, time, C] -> the same shape."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return x * scale[None, None] + bias[None, None]


class ResidualBlock(nn.Module):
    """Two convolutions, each after normalisation and ReLU, beside a shortcut.

    Attributes:
        filters: channels of the output; the shortcut is padded with zeros on both sides.
        kernel: samples of a convolution.
        stride: 2 halves the time; the shortcut takes the larger of two samples.
        first: True for the first block, whose input is normalised already.
    """

    filters: int
    kernel: int
    stride: int
    first: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, time, C] -> [batch, ceil(time / stride), filters]."""
        y = x if self.first else nn.relu(Affine(name="norm_1")(x))
        y = nn.Conv(self.filters, (self.kernel,), (self.stride,), padding="SAME", name="conv_1")(y)
        y = nn.relu(Affine(name="norm_2")(y))
        y = nn.Conv(self.filters, (self.kernel,), padding="SAME", name="conv_2")(y)
        if self.stride > 1:
            left = (self.stride - 1) // 2
            x = jnp.pad(x, ((0, 0), (left, self.stride - 1 - left), (0, 0)))
            x = nn.max_pool(x, (self.stride,), (self.stride,), padding="VALID")
        missing = self.filters - x.shape[-1]
        return y + jnp.pad(x, ((0, 0), (0, 0), (missing // 2, missing - missing // 2)))


class ResNet1D(nn.Module):
    """Encoder of one channel of time.

    Attributes:
        filters: of the first blocks.
        kernel: samples of a convolution.
        blocks: number of residual blocks.
        output: features of a linear layer on the pooled features; 0: none, and features are pooled by their maximum, not mean.
        normalise: True to subtract each segment's mean and divide by its standard deviation first.
    """

    filters: int
    kernel: int
    blocks: int
    output: int
    normalise: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, time, 1] float32 -> [batch, D] float32."""
        if self.normalise:
            centred = x - jnp.mean(x, axis=1, keepdims=True)
            x = centred / jnp.sqrt(jnp.mean(jnp.square(centred), axis=1, keepdims=True) + _EPSILON)
        x = nn.Conv(self.filters, (self.kernel,), padding="SAME", name="conv")(x)
        x = nn.relu(Affine(name="norm")(x))
        for number in range(self.blocks):
            filters = self.filters * 2 ** (number // WIDEN_EVERY)
            stride = STRIDE if number % DOWNSAMPLE_EVERY == 1 else 1
            x = ResidualBlock(filters, self.kernel, stride, number == 0, name=f"block_{number}")(x)
        if not self.output:
            return jnp.max(x, axis=1)
        x = jnp.mean(nn.relu(Affine(name="final_norm")(x)), axis=1)
        return nn.Dense(self.output, name="dense")(x)


def papagei(state: Mapping[str, np.ndarray]) -> tuple[ResNet1D, dict[str, Any]]:
    """Encoder and parameters of PaPaGei-S, from the arrays of a PyTorch file.

    Raises:
        UserError: an array is missing or of another shape; names it.
    """
    if any(name.startswith("projector.") for name in state):
        raise UserError("it has a projector, so it is no PaPaGei-S; that model is read alone")
    output = _get(state, "dense.weight").shape[0]
    module, params = _common(state, output=output, normalise=False)
    params["final_norm"] = _norm(state, "final_bn")
    params["dense"] = {"kernel": _get(state, "dense.weight").T, "bias": _get(state, "dense.bias")}
    return module, params


def pulse_ppg(state: Mapping[str, np.ndarray]) -> tuple[ResNet1D, dict[str, Any]]:
    """Encoder and parameters of Pulse-PPG, from the arrays of a PyTorch file; raises as `papagei`."""
    return _common(state, output=0, normalise=True)


def _common(state: Mapping[str, np.ndarray], *, output: int, normalise: bool) -> tuple[ResNet1D, dict[str, Any]]:
    first = _get(state, "first_block_conv.conv.weight")
    blocks = [int(match[1]) for name in state if (match := _BLOCK.fullmatch(name))]
    if first.ndim != 3 or sorted(blocks) != list(range(len(blocks))) or not blocks:
        raise UserError("it has not the layers of a ResNet1D (first_block_conv, basicblock_list.0, ...)")
    module = ResNet1D(first.shape[0], first.shape[2], len(blocks), output, normalise)
    params: dict[str, Any] = {"conv": _conv(state, "first_block_conv"), "norm": _norm(state, "first_block_bn")}
    for number in range(len(blocks)):
        name = f"basicblock_list.{number}"
        block = {"conv_1": _conv(state, f"{name}.conv1"), "conv_2": _conv(state, f"{name}.conv2")}
        block["norm_2"] = _norm(state, f"{name}.bn2")
        if number:
            block["norm_1"] = _norm(state, f"{name}.bn1")
        params[f"block_{number}"] = block
    return module, params


def _get(state: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if name not in state:
        raise UserError(f"it has no {name}; it belongs to another model")
    return np.asarray(state[name], np.float32)


def _conv(state: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Kernel [samples, in, out] and bias of a convolution, whose weight is [out, in, samples] in PyTorch."""
    return {"kernel": _get(state, f"{name}.conv.weight").transpose(2, 1, 0), "bias": _get(state, f"{name}.conv.bias")}


def _norm(state: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Batch normalisation with its statistics as scale and offset."""
    weight, bias, mean, variance = (
        _get(state, f"{name}.{part}").astype(np.float64) for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = weight / np.sqrt(variance + _EPSILON)
    return {"scale": scale.astype(np.float32), "bias": (bias - mean * scale).astype(np.float32)}


def checked(module: ResNet1D, params: Mapping[str, Any], *, samples: int) -> Mapping[str, Any]:
    """Parameters of the shapes that an encoder needs.

    Raises:
        UserError: an array has another shape; names it.
    """
    expected = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, samples, 1), jnp.float32))
    paths = jax.tree_util.tree_flatten_with_path(expected["params"])[0]
    for path, leaf in paths:
        value: Any = params
        for key in path:
            value = value.get(key.key) if isinstance(value, Mapping) else None
        if value is None or value.shape != leaf.shape or not np.isfinite(value).all():
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            shape = "missing" if value is None else f"{list(value.shape)}"
            raise UserError(
                f"{name} is {shape}, expected finite values {list(leaf.shape)}; it belongs to another model"
            )
    return params
