"""Presents a modality to its encoder: prepared, and in training shifted and augmented."""

from collections.abc import Mapping

import chex
import jax
import jax.numpy as jnp

from accdistill_jax.config.schema import InputSettings
from accdistill_jax.inputs.augment import augment
from accdistill_jax.inputs.prepare import prepare_inputs, row_by_row
from accdistill_jax.inputs.registered import Augmentation
from accdistill_jax.inputs.streams import MODALITY_STREAMS, SHIFT, stream
from accdistill_jax.runtime.platform import platform


def band_groups(settings: InputSettings) -> int:
    """Groups of channels of the input: one for each band, each with the sensor's channels in their order."""
    return 1 + settings.bands.count("+")


def shifted(batch: Mapping[str, jax.Array], keys: jax.Array, modality: str, largest: int) -> dict[str, jax.Array]:
    """Shifts each segment by a random whole number of samples, the same for every modality, so that tokens begin elsewhere.

    Args:
        batch: as from the pipeline.
        keys: [b] random keys, one per segment.
        modality: the signal to shift.
        largest: largest shift to both sides, less than the segment's samples. Times outside the segment get its first or last
            sample.

    Returns:
        The batch with the shifted signal.
    """
    x = batch[modality]
    starts = jax.vmap(lambda key: jax.random.randint(key, (), 0, 2 * largest + 1))(stream(keys, SHIFT))
    if platform() == "tpu":  # where slices from different places are gathered, one sample at a time
        return {**batch, modality: _moved_by_powers(x, starts, largest)}
    padded = jnp.pad(x, ((0, 0), (largest, largest), (0, 0)), mode="edge")
    moved = jax.vmap(lambda row, start: jax.lax.dynamic_slice_in_dim(row, start, x.shape[1]))(padded, starts)
    return {**batch, modality: moved}


def _moved_by_powers(x: jax.Array, starts: jax.Array, largest: int) -> jax.Array:
    """The signal x [b, time, C] padded by `largest` edges and cut at starts [b], by a shift for each bit of a start."""
    bits = (2 * largest).bit_length()
    moved = jnp.pad(x, ((0, 0), (largest, 2**bits - 1 - largest), (0, 0)), mode="edge")
    for bit in reversed(range(bits)):
        length = moved.shape[1] - 2**bit
        shifts = (starts[:, None, None] >> bit) % 2 == 1
        moved = jnp.where(shifts, moved[:, 2**bit :], moved[:, :length])
    return moved


def present(
    batch: Mapping[str, jax.Array],
    keys: jax.Array,
    modality: str,
    settings: InputSettings,
    augmentations: Mapping[str, Augmentation],
    *,
    training: bool,
) -> jax.Array:
    """The input of a modality's encoder, augmented in training; the same for any split of the batch.

    Args:
        batch: as from the pipeline; see `prepare.dequantise_batch`.
        keys: [b] random keys, one per segment.
        modality: "ppg" or "accel".
        settings: see `InputSettings`.
        augmentations: by name; see `augment`.
        training: False leaves out the augmentations.

    Returns:
        [b, time, C] float32.
    """
    signal = {name: value for name, value in batch.items() if name.split("_")[0] == modality}
    rows = batch[modality].shape[0]
    chex.assert_rank(batch[modality], 3)
    chex.assert_shape([batch[f"{modality}_scale"], batch[f"{modality}_offset"]], (rows, batch[modality].shape[2]))
    chex.assert_shape(keys, (rows,))

    def present_rows(rows):
        keys, signal = rows
        x = prepare_inputs(signal, modality, settings)
        return augment(keys, x, augmentations, groups=band_groups(settings)) if training else x

    return row_by_row(present_rows, (stream(keys, MODALITY_STREAMS[modality]), signal))
