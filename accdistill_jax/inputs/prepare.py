"""From stored int16 to an encoder's input, on the device: dequantise, split into bands, normalise."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from accdistill_jax.config.schema import InputSettings
from accdistill_jax.runtime.platform import on_cpu

ENVELOPE_SAMPLES = 8  # two passes: -6 dB at about 3.5 Hz at 64 Hz
BREATHING_SAMPLES = 64  # two passes of a 64-sample mean: -6 dB at about 0.45 Hz at 64 Hz
BEAT_SAMPLES = (2, 4, 8)  # means of 2 and 4 less two passes of 8: the ballistocardiogram's 3.5 to 9 Hz at 64 Hz
BEAT_LIMIT = 4.0  # soft limit of that band, in mean absolute deviations times 1.25
SMOOTHING_SAMPLES = 16  # two passes of a 16-sample mean: -6 dB at about 1.8 Hz at 64 Hz


def dequantise_batch(batch: Mapping[str, jax.Array], modality: str) -> jax.Array:
    """Physical values of a stored modality.

    Args:
        batch: holds `modality` [batch, time, C] int16 and its `_scale` and `_offset` [batch, C] float32.
        modality: "ppg" or "accel".

    Returns:
        [batch, time, C] float32 in the store's unit (accel: g).
    """
    values = batch[modality].astype(jnp.float32)
    return values * batch[f"{modality}_scale"][:, None] + batch[f"{modality}_offset"][:, None]


def moving_mean(x: jax.Array, width: int) -> jax.Array:
    """Centred mean over `width` samples (a power of two) of time, edges repeated; [batch, time, C] -> the same."""
    length = x.shape[1]
    summed = jnp.pad(x, ((0, 0), (width // 2, width - 1 - width // 2), (0, 0)), mode="edge")
    span = 1
    while span < width:
        summed = summed[:, : summed.shape[1] - span] + summed[:, span:]
        span *= 2
    return summed[:, :length] / width


def normalise(x: jax.Array, *, scale: str) -> jax.Array:
    """Each channel of each segment to zero mean and unit scale; a constant channel becomes zero."""
    x = x - x[:, :1]  # so that a constant leaves no rounding of its mean behind
    centred = x - jnp.mean(x, axis=1, keepdims=True)
    if scale == "robust":
        spread = 1.2533 * jnp.mean(jnp.abs(centred), axis=1, keepdims=True)  # equals the std of a Gaussian
    else:
        spread = jnp.sqrt(jnp.mean(jnp.square(centred), axis=1, keepdims=True))
    return centred / (spread + 1e-6)


def simulated_sensor(x: jax.Array, settings: InputSettings) -> jax.Array:
    """Signal of a simulated sensor that is slower, coarser or has fewer axes, at the store's rate.

    A lower rate is an ideal low-pass at its Nyquist frequency on the segment and its mirror image (which has no jump at
    the ends): the band-limited interpolation of the slower sensor's samples. Rounding comes after it, at the store's rate.

    Args:
        x: [batch, time, C] float32 in the store's unit.
        settings: `simulated_rate_fraction`, `simulated_step` and `simulated_axes` are used.

    Returns:
        [batch, time, C] float32.
    """
    if settings.simulated_rate_fraction < 1.0:
        first = x[:, :1]
        mirrored = jnp.concatenate([x - first, (x - first)[:, ::-1]], axis=1)
        spectrum = jnp.fft.rfft(mirrored, axis=1)
        kept = jnp.arange(spectrum.shape[1]) < settings.simulated_rate_fraction * (spectrum.shape[1] - 1)
        smooth = jnp.fft.irfft(jnp.where(kept[None, :, None], spectrum, 0), n=mirrored.shape[1], axis=1)
        x = smooth[:, : x.shape[1]].astype(jnp.float32) + first
    if settings.simulated_step:
        x = jnp.round(x / settings.simulated_step) * settings.simulated_step
    if settings.simulated_axes and settings.simulated_axes < x.shape[-1]:
        x = jnp.where(jnp.arange(x.shape[-1]) < settings.simulated_axes, x, 0.0)
    return x


def slow_amplitude(x: jax.Array) -> jax.Array:
    """Root of the mean square of the pulse over about a second, which breathing changes: [batch, time, C] -> the same.

    Source: Charlton et al. 2016, Physiol Meas 37, for the amplitude modulation of the PPG by breathing; the filter is our choice.
    """
    mean = lambda x: moving_mean(moving_mean(x, BREATHING_SAMPLES), BREATHING_SAMPLES)
    x = x - x[:, :1]
    power = mean(jnp.square(x - mean(x)))
    # keeps the root's slope finite in any unit, and a silent channel constant
    return jnp.sqrt(power + 1e-6 * jnp.mean(power, axis=1, keepdims=True) + 1e-12)


def ballistocardiogram(x: jax.Array) -> jax.Array:
    """Band of 3.5 to 9 Hz, where a heart beat shakes the wrist, with bursts of motion limited; [batch, time, C] -> the same.

    Noise of the sensor above the band and sway below it would hide the beats in an envelope.
    """
    short, middle, long = BEAT_SAMPLES
    band = moving_mean(moving_mean(x, middle), short) - moving_mean(moving_mean(x, long), long)
    spread = 1.2533 * jnp.mean(jnp.abs(band), axis=1, keepdims=True) + 1e-6
    return band * jax.lax.rsqrt(1.0 + jnp.square(band / (BEAT_LIMIT * spread)))


def prepare_inputs(batch: Mapping[str, jax.Array], modality: str, settings: InputSettings) -> jax.Array:
    """The encoder's input of a modality.

    Args:
        batch: as from the pipeline, see `dequantise_batch`.
        modality: "ppg" or "accel".
        settings: see `InputSettings`.

    Returns:
        [batch, time, C] float32, [batch, time, 2 C] for "low+high" (all low channels first) and "full+breathing", or
        [batch, time, 3 C] with the envelopes last: of the fast part for "low+high+envelope", of the ballistocardiogram for
        "low+high+beat".
    """
    x = simulated_sensor(dequantise_batch(batch, modality), settings)
    if settings.bands == "full+breathing":
        x = jnp.concatenate([x, slow_amplitude(x)], axis=-1)
    elif settings.bands != "full":
        x = x - x[:, :1]  # gravity off first: float32 keeps its digits for the few mg that matter
        low = moving_mean(moving_mean(x, SMOOTHING_SAMPLES), SMOOTHING_SAMPLES)
        fast = x - low
        x = fast if settings.bands == "high" else jnp.concatenate([low, fast], axis=-1)
        if settings.bands in ("low+high+envelope", "low+high+beat"):
            if settings.bands == "low+high+beat":
                fast = ballistocardiogram(low + fast)
            power = moving_mean(moving_mean(jnp.square(fast), ENVELOPE_SAMPLES), ENVELOPE_SAMPLES)
            # a sensor's step squared keeps the root's slope finite and a silent axis constant
            x = jnp.concatenate([x, jnp.sqrt(power + 1e-9)], axis=-1)
    x = normalise(x, scale=settings.scale)
    if settings.limit:
        x = x * jax.lax.rsqrt(1.0 + jnp.square(x / settings.limit))
    return x


def row_by_row(fn: Callable[[Any], jax.Array], rows: Any) -> jax.Array:
    """`fn` of a batch, so computed that a row's result does not depend on how many rows there are, to the last bit.

    On CPU the compiler fuses and vectorises by shape: with other numbers of rows it rounds otherwise. There each row is
    computed for itself, in a loop, which also keeps it in the cache. Elsewhere one thread computes one element, whatever
    the shape.

    Args:
        fn: of a tree of [n, ...] arrays, gives [n, ...]; each row by itself.
        rows: tree of [batch, ...] arrays.
    """
    if not on_cpu():
        return fn(rows)
    count = len(jax.tree.leaves(rows)[0])
    if count == 1:  # a loop of one turn would be dissolved, and compiled together with what is around it
        rows = jax.tree.map(lambda a: jnp.concatenate([a, a]), rows)
    return jax.lax.map(lambda row: fn(jax.tree.map(lambda a: a[None], row))[0], rows)[:count]
