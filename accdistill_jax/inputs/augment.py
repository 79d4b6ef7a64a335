"""Augmentations of normalised segments on the device, inside the jitted step.

Each augmentation is an independent yes/no event per segment, applied in a fixed order (the probabilities of the default
config are those of arXiv 2312.05409; strengths are our choice). All randomness comes from one key per segment, so that a
segment's augmentation does not depend on how the batch is laid out over devices.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

ORDER = ("cut_out", "magnitude_warp", "gaussian_noise", "channel_permute", "time_warp")


class Augmentation(NamedTuple):
    """One augmentation: `probability` per segment, `strength` as documented at its function, `knots` of its curve."""

    probability: float
    strength: float
    knots: int = 4


def curve_weights(length: int, knots: int) -> np.ndarray:
    """Raised-cosine interpolation from equally spaced knots, [length, knots] float32; each row sums to 1."""
    position = np.linspace(0.0, knots - 1.0, length)
    distance = np.abs(position[:, None] - np.arange(knots))
    return np.where(distance < 1.0, 0.5 + 0.5 * np.cos(np.pi * distance), 0.0).astype(np.float32)


def cheap_normal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Noise of zero mean, unit variance and nearly Gaussian shape (four uniform bytes added), float32.

    A multiply-xorshift hash of the element's number and the key: an eighth of the work of a cryptographic generator and
    an inverse error function, which on CPU would cost more than the network. For augmentation, not for statistics.
    """
    words = jax.random.bits(key, (2,), jnp.uint32)
    count = 1
    for size in shape:
        count *= size
    h = jnp.arange(count, dtype=jnp.uint32) * jnp.uint32(0x9E3779B9) + words[0]
    for factor in (0x7FEB352D, 0x846CA68B):
        h = (h ^ (h >> 16)) * jnp.uint32(factor)
    h = (h ^ (h >> 15)) + words[1]
    h = (h ^ (h >> 16)) * jnp.uint32(0x7FEB352D)
    h = h ^ (h >> 15)
    total = (h & 255) + ((h >> 8) & 255) + ((h >> 16) & 255) + (h >> 24)
    return ((total.astype(jnp.float32) - 510.0) / 147.8).reshape(shape)  # 147.8^2 = 4 (256^2 - 1) / 12


def cut_out(key: jax.Array, x: jax.Array, spec: Augmentation, groups: int) -> jax.Array:
    """Zeroes one window of all channels; `strength` is its share of the segment."""
    length = x.shape[0]
    span = round(spec.strength * length)
    start = jax.random.randint(key, (), 0, length - span + 1)
    t = jnp.arange(length)
    return jnp.where(((t >= start) & (t < start + span))[:, None], 0.0, x)


def magnitude_warp(key: jax.Array, x: jax.Array, spec: Augmentation, groups: int) -> jax.Array:
    """Multiplies each channel by a smooth curve 1 + `strength` * N(0, 1)."""
    values = jax.random.normal(key, (spec.knots, x.shape[1]))
    return x * (1.0 + spec.strength * _product(curve_weights(x.shape[0], spec.knots), values))


def gaussian_noise(key: jax.Array, x: jax.Array, spec: Augmentation, groups: int) -> jax.Array:
    """Adds white noise; `strength` is its standard deviation in those of the normalised signal."""
    return x + spec.strength * cheap_normal(key, x.shape)


def channel_permute(key: jax.Array, x: jax.Array, spec: Augmentation, groups: int) -> jax.Array:
    """Random order of the channels within each of `groups` equal groups (bands), the same in all; no strength."""
    order = jax.random.permutation(key, x.shape[1] // groups)
    return x.reshape(x.shape[0], groups, -1)[:, :, order].reshape(x.shape)


def time_warp(key: jax.Array, x: jax.Array, spec: Augmentation, groups: int) -> jax.Array:
    """Resamples along smoothly displaced, monotone times; the local rate is 1 + `strength` * N(0, 1), ends fixed.

    The normal numbers are limited to +-3, so that time runs forward for strengths below 1/3.
    """
    length = x.shape[0]
    values = jnp.clip(jax.random.normal(key, (spec.knots,)), -3.0, 3.0)
    elapsed = np.arange(length, dtype=np.float32) + spec.strength * (
        _product(np.cumsum(curve_weights(length, spec.knots), axis=0), values)
    )
    source = (elapsed - elapsed[0]) / (elapsed[-1] - elapsed[0]) * (length - 1.0)
    left = jnp.clip(source.astype(jnp.int32), 0, length - 2)
    weight = (source - left)[:, None]
    pairs = jnp.concatenate([x, jnp.roll(x, -1, axis=0)], axis=1)[
        left
    ]  # one gather of neighbours: gathers are slow on CPU
    return pairs[:, : x.shape[1]] * (1.0 - weight) + pairs[:, x.shape[1] :] * weight


def _product(weights: np.ndarray, values: jax.Array) -> jax.Array:
    """[length, knots] times [knots, ...] in full float32: accelerators would round to fewer digits by themselves."""
    return jnp.matmul(weights, values, precision=jax.lax.Precision.HIGHEST)


FUNCTIONS = {
    "cut_out": cut_out,
    "magnitude_warp": magnitude_warp,
    "gaussian_noise": gaussian_noise,
    "channel_permute": channel_permute,
    "time_warp": time_warp,
}


def augment(keys: jax.Array, x: jax.Array, specs: Mapping[str, Augmentation], *, groups: int = 1) -> jax.Array:
    """Applies each augmentation of `specs` with its probability, in the order of `ORDER`.

    Args:
        keys: [batch] random keys, one per segment.
        x: [batch, time, C] float32, normalised.
        specs: by name; one that is absent or has probability 0 is not compiled in.
        groups: bands the channels consist of; permutation happens alike in each.

    Returns:
        [batch, time, C] float32.
    """

    def one(key, x):
        for number, name in enumerate(ORDER):
            spec = specs.get(name)
            if spec is None or spec.probability == 0:
                continue
            event, draw = jax.random.split(jax.random.fold_in(key, number))
            happens = jax.random.uniform(event) < spec.probability
            function = functools.partial(FUNCTIONS[name], spec=spec, groups=groups)
            x = jax.lax.cond(happens, function, lambda _, x: x, draw, x)
            # the barrier keeps XLA from computing one augmentation again for every sample that the next one reads
            x = jax.lax.optimization_barrier(x)
        return x

    # one segment takes only the branches that happen; of several, all are computed and then chosen from
    return one(keys[0], x[0])[None] if len(x) == 1 else jax.vmap(one)(keys, x)


def augmentations(section: Any) -> dict[str, Augmentation]:
    """The augmentations of a config section, those with probability 0 left out."""
    return {name: Augmentation(**spec) for name, spec in section.items() if spec.probability > 0}
