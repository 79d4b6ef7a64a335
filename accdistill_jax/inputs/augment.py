"""Augmentations of normalised segments on the device, inside the jitted step.

Each augmentation is an independent yes/no event per segment (the probabilities of the default config are those of arXiv
2312.05409; strengths are our choice). All randomness comes from one key per segment and the augmentation's stream number, so
that the augmentation of a segment does not depend on how the batch is laid out over devices.
"""

import functools
import math
from collections.abc import Mapping

import chex
import jax
import jax.numpy as jnp
import numpy as np

from accdistill_jax.config.registry import AUGMENTATIONS
from accdistill_jax.inputs.registered import Augmentation, ClockOffset, RegisteredAugmentation
from accdistill_jax.runtime.platform import platform

# For TPUs: samples of a block, which has one coarse shift; samples between coarse shifts; limits beyond which a gather is used.
BLOCK, COARSE, LARGEST_SHIFT, LARGEST_RATE = 128, 8, 256, 1.5


def curve_weights(length: int, knots: int) -> np.ndarray:
    """Raised-cosine interpolation from equally spaced knots, [length, knots] float32; each row sums to 1."""
    position = np.linspace(0.0, knots - 1.0, length)
    distance = np.abs(position[:, None] - np.arange(knots))
    return np.where(distance < 1.0, 0.5 + 0.5 * np.cos(np.pi * distance), 0.0).astype(np.float32)


def cheap_normal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Noise of zero mean, unit variance and nearly Gaussian shape (four uniform bytes added), float32.

    A multiply-xorshift hash of the element's number and the key: an eighth of the work of a cryptographic generator and
    an inverse error function, which on CPU would cost more than the network. Good enough for augmentation only.
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
    """Zeroes a window of all channels; `strength` is the window's share of the segment."""
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
    """Adds white noise; `strength` is its standard deviation, in standard deviations of the normalised signal."""
    return x + spec.strength * cheap_normal(key, x.shape)


def channel_permute(key: jax.Array, x: jax.Array, spec: Augmentation, groups: int) -> jax.Array:
    """Reorders the channels at random within each of `groups` equal groups (bands), alike in all; has no strength."""
    order = jax.random.permutation(key, x.shape[1] // groups)
    grouped = x.reshape(x.shape[0], groups, -1)
    if platform() == "tpu":  # a gather takes a TPU longer than a choice among a few channels
        chosen = jnp.zeros_like(grouped)
        for channel in range(grouped.shape[2]):
            chosen = jnp.where((order == channel)[None, None], grouped[:, :, channel : channel + 1], chosen)
        return chosen.reshape(x.shape)
    return grouped[:, :, order].reshape(x.shape)


def time_warp(key: jax.Array, x: jax.Array, spec: Augmentation, groups: int) -> jax.Array:
    """Resamples along smoothly displaced, monotone times; the local rate is 1 + `strength` * N(0, 1), ends fixed.

    The normal numbers are clipped to +-3, so that time runs forward for strengths below 1/3.
    """
    length = x.shape[0]
    values = jnp.clip(jax.random.normal(key, (spec.knots,)), -3.0, 3.0)
    elapsed = np.arange(length, dtype=np.float32) + spec.strength * (
        _product(np.cumsum(curve_weights(length, spec.knots), axis=0), values)
    )
    source = (elapsed - elapsed[0]) / (elapsed[-1] - elapsed[0]) * (length - 1.0)
    fastest, slowest = 1.0 + 3.0 * spec.strength, 1.0 - 3.0 * spec.strength
    if platform() == "tpu" and fastest < LARGEST_RATE * slowest:
        # a sample is farthest from its place if all before it are fastest, and all after it slowest
        farthest = (length - 1) * (math.sqrt(fastest) - math.sqrt(slowest)) / (math.sqrt(fastest) + math.sqrt(slowest))
        if farthest < LARGEST_SHIFT:
            return interpolated_by_shifts(x, source, farthest=farthest, rate=fastest / slowest)
    return interpolated(x, source)


def clock_offset(key: jax.Array, x: jax.Array, spec: ClockOffset, groups: int) -> jax.Array:
    """Shifts the segment as a clock that is ahead or behind would, by up to `strength` samples and up to `drift_ppm`.

    Both are uniform. Times outside the segment get its first or last sample.
    """
    length = x.shape[0]
    offset, drift = jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)
    steps = np.arange(length, dtype=np.float32)
    # the gain per step is added to the step at the end: as 1 + 1e-4, float32 would round it
    source = steps + spec.strength * offset + steps * (1e-6 * spec.drift_ppm * drift)
    largest_drift = 1e-6 * spec.drift_ppm
    farthest = spec.strength + largest_drift * (length - 1)
    if platform() == "tpu" and farthest < LARGEST_SHIFT and 1.0 + largest_drift < LARGEST_RATE:
        inside = interpolated_by_shifts(x, source, farthest=farthest, rate=1.0 + largest_drift)
        before, after = source[:, None] <= 0.0, source[:, None] >= length - 1.0
        return jnp.where(before, x[:1], jnp.where(after, x[-1:], inside))
    return interpolated(x, jnp.clip(source, 0.0, length - 1.0))


def interpolated(x: jax.Array, source: jax.Array) -> jax.Array:
    """The values of x [length, C] at times [length], in samples from 0 to length - 1, by linear interpolation."""
    left = jnp.clip(source.astype(jnp.int32), 0, x.shape[0] - 2)
    weight = (source - left)[:, None]
    pairs = jnp.concatenate([x, jnp.roll(x, -1, axis=0)], axis=1)[left]  # a single gather: gathers are slow on CPU
    return pairs[:, : x.shape[1]] * (1.0 - weight) + pairs[:, x.shape[1] :] * weight


def interpolated_by_shifts(x: jax.Array, source: jax.Array, *, farthest: float, rate: float) -> jax.Array:
    """`interpolated` for TPUs, where a gather moves one sample at a time.

    Each block of samples takes one of a few coarse shifts of the signal. Each sample then weights the neighbours that are
    left, of which two have a weight.

    Args:
        x: [length, C].
        source: times [length]. Values at times outside the segment have no meaning.
        farthest: largest distance of a sample's time from its number, in samples.
        rate: largest number of samples by which `source` moves from one sample to the next; the smallest is at least 2 - `rate`.
    """
    length = x.shape[0]
    reach = math.ceil(farthest) + 1
    shifts = 2 * reach // COARSE + 1
    taps = COARSE + math.ceil((rate - 1.0) * BLOCK) + 2
    blocks = -(-length // BLOCK)
    away = source - np.arange(length, dtype=np.float32) + reach  # at least 0
    # constants around the arrays, as padding with edges would be a copy; a block of constants comes first
    of_block = jnp.pad(away, (BLOCK, blocks * BLOCK - length), constant_values=2.0 * COARSE * shifts)
    coarse = jnp.floor(jnp.min(of_block.reshape(blocks + 1, BLOCK), axis=1) / COARSE)
    own, before = jnp.repeat(coarse[1:], BLOCK), jnp.repeat(coarse, BLOCK)[: length + taps]
    left = away - COARSE * own[:length]  # at least 0, less than `taps` - 1
    padded = jnp.pad(x.T, ((0, 0), (reach, taps + COARSE * shifts - reach)))

    def shifted(by: jax.Array) -> jax.Array:
        near = jnp.zeros((x.shape[1], length + taps), x.dtype)
        for shift in range(shifts):
            moved = padded[:, COARSE * shift : COARSE * shift + length + taps]
            near = jnp.where((by == shift)[None], moved, near)
        return near

    # a tap that reaches into the next block still takes the coarse shift of its sample's block
    within = shifted(jnp.pad(own, (0, taps), constant_values=-1.0)[: length + taps])
    beyond = shifted(before)
    place = np.arange(length) % BLOCK
    total = jnp.zeros_like(x.T)
    for tap in range(taps):
        near = jnp.where((place + tap < BLOCK)[None], within[:, tap : tap + length], beyond[:, tap : tap + length])
        total = total + jnp.maximum(0.0, 1.0 - jnp.abs(left - tap))[None] * near
    return total.T


def _product(weights: np.ndarray, values: jax.Array) -> jax.Array:
    """[length, knots] times [knots, ...] in full float32; accelerators round to fewer digits by default."""
    return jnp.matmul(weights, values, precision=jax.lax.Precision.HIGHEST)


def order() -> tuple[str, ...]:
    """The names of all registered augmentations in the order in which they are applied."""

    def place(name: str) -> tuple[float, int]:
        registered: RegisteredAugmentation = AUGMENTATIONS.get(name)
        return registered.position, registered.stream

    return tuple(sorted(AUGMENTATIONS.names(), key=place))


def augment(keys: jax.Array, x: jax.Array, specs: Mapping[str, Augmentation], *, groups: int = 1) -> jax.Array:
    """Applies each augmentation of `specs` with its probability, in `order()`.

    Args:
        keys: [batch] random keys, one per segment.
        x: [batch, time, C] float32, normalised.
        specs: options by name; an augmentation that is absent or has probability 0 is not compiled in.
        groups: bands among the channels; permutation is the same in each.

    Returns:
        [batch, time, C] float32.
    """
    chex.assert_rank(x, 3)
    chex.assert_shape(keys, x.shape[:1])
    chosen = [(AUGMENTATIONS.get(name), specs[name]) for name in order() if name in specs and specs[name].probability]

    def augment_segment(key: jax.Array, x: jax.Array) -> jax.Array:
        for registered, spec in chosen:
            event, draw = jax.random.split(jax.random.fold_in(key, registered.stream))
            happens = jax.random.uniform(event) < spec.probability
            function = functools.partial(registered.load(), spec=spec, groups=groups)
            x = jax.lax.cond(happens, function, lambda _, x: x, draw, x)
            # the barrier keeps XLA from computing one augmentation again for every sample that the next one reads
            x = jax.lax.optimization_barrier(x)
        return x

    # a single segment takes only the branches that happen; for several, all branches are computed and then selected
    return augment_segment(keys[0], x[0])[None] if len(x) == 1 else jax.vmap(augment_segment)(keys, x)


def augmentations(section: Mapping[str, Augmentation]) -> dict[str, Augmentation]:
    """The augmentations of a config section, without those of probability 0."""
    return {name: spec for name, spec in section.items() if spec.probability > 0}
