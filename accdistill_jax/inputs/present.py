"""A modality as its encoder gets it: prepared, in training augmented, with random keys of its own."""

from collections.abc import Mapping

import jax

from accdistill_jax.inputs.augment import Augmentation, augment
from accdistill_jax.inputs.prepare import InputSettings, prepare, row_by_row

STREAM_MASK = 0
STREAMS = {"ppg": 1, "accel": 2}
STREAM_TOKENS = 3
STREAM_SECOND = (
    5  # of the second view of a segment; 4 are the views that a teacher embeds once (stages/teacher_views.py)
)


def stream(keys: jax.Array, number: int) -> jax.Array:
    """Independent keys for one use of randomness: [batch] keys -> [batch] keys."""
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def band_groups(settings: InputSettings) -> int:
    """Groups of channels that the input consists of, one a band, each with the sensor's channels in their order."""
    return 1 + settings.bands.count("+")


def present(
    batch: Mapping[str, jax.Array],
    keys: jax.Array,
    modality: str,
    settings: InputSettings,
    augmentations: Mapping[str, Augmentation],
    *,
    training: bool,
) -> jax.Array:
    """A modality as its encoder gets it, augmented in training: [b, time, C] float32, alike for any split of the batch."""
    own = {name: value for name, value in batch.items() if name.split("_")[0] == modality}

    def of(rows):
        keys, own = rows
        x = prepare(own, modality, settings)
        return augment(keys, x, augmentations, groups=band_groups(settings)) if training else x

    return row_by_row(of, (stream(keys, STREAMS[modality]), own))
