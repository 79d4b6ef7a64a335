"""`benchmark gpu`: settings that every part of the measurements receives, in full size and in the rehearsal's size."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from accdistill_jax.benchmark.commands.step import FOLLOWED_WITH, without_augmentation
from accdistill_jax.benchmark.contest import Worker
from accdistill_jax.config import tree
from accdistill_jax.config.convert import changed
from accdistill_jax.config.load import load_config

CONTENDERS = "accdistill_jax.benchmark.contenders"
ENDING_S = 10.0  # of the time limit, for the record and the end of the processes
MEMORY_FRACTION = (
    "XLA_PYTHON_CLIENT_MEM_FRACTION"  # of the device's memory that JAX may take; without it three quarters
)


class Sizes(NamedTuple):
    """Amounts of the measurements.

    Attributes:
        batches: segments per device of the contest; the losses of the first are compared with PyTorch's. Two programs with a batch
            above `variant_batch` may not fit in the device's memory together, so they are measured one after the other.
        compiled: batches for which PyTorch is also compiled.
        variant_batch: segments per device of the variants.
        large_batch: segments per device of the variants that save memory.
        small_batches: segments per device of the default config's models.
        rounds: measurements of each step.
        round_s: seconds per measurement.
        shrink: overrides of every encoder's sizes, by key of its `transformer`.
        steps: steps of the training.
        participants: participants of its synthetic data.
        training_batch: global batch of the training.
    """

    batches: tuple[int, ...]
    compiled: tuple[int, ...]
    variant_batch: int
    large_batch: int
    small_batches: tuple[int, ...]
    rounds: int
    round_s: float
    shrink: Mapping[str, int]
    steps: int
    participants: int
    training_batch: int


FULL = Sizes((256, 1024, 4096, 8192), (1024,), 1024, 8192, (128, 1024), 5, 0.5, {}, 300, 400, 512)
TINY_MODEL = {"patch": 240, "width": 16, "depth": 1, "heads": 4, "mlp": 32}
TINY = Sizes((4, 8), (), 4, 16, (4,), 2, 0.02, TINY_MODEL, 4, 12, 16)


class Context(NamedTuple):
    """Settings and services of every part.

    Attributes:
        config: the `--config` argument.
        overrides: "--config.KEY=VALUE" arguments.
        sizes: amounts of the measurements.
        folder: folder for temporary files.
        remaining: returns the seconds that are left of the time limit.
        say: receives lines of progress.
        forms: forms of the part `variants`; empty for all.
    """

    config: str
    overrides: tuple[str, ...]
    sizes: Sizes
    folder: Path
    remaining: Callable[[], float]
    say: Callable[[str], None]
    forms: tuple[str, ...] = ()

    def plain(
        self, settings: Mapping[str, Any], *, config: str | None = None, augmented: bool = False
    ) -> dict[str, Any]:
        """A config as plain values.

        Args:
            settings: changes of the config, by dotted key.
            config: name of a config in its full size; None: the main config, in the size of the rehearsal.
            augmented: keep the augmentations.

        Raises:
            UserError: an unknown key, or a value that the config refuses.
        """
        shrink = {
            f"{role}.encoder.transformer.{key}": value
            for role in ("teacher", "student")
            for key, value in self.sizes.shrink.items()
        }
        if config is None:
            loaded = changed(load_config(self.config, self.overrides), shrink | dict(settings))
        else:
            loaded = changed(load_config(config), settings)
        values = tree.plain(loaded) if augmented else without_augmentation(loaded)
        values["student"]["train"] |= FOLLOWED_WITH
        return values

    def worker(self, module: str, order: Mapping[str, Any]) -> Worker:
        """Starts a measuring process whose answers must come within the time limit."""
        return Worker(
            f"{CONTENDERS}.{module}",
            order,
            environment={MEMORY_FRACTION: os.environ.get(MEMORY_FRACTION, "0.9")},
            patience_s=lambda: max(self.remaining(), 1.0),
        )

    def has_time(self) -> bool:
        """False near the time limit: no further measurement should begin."""
        return bool(self.sizes.shrink) or self.remaining() > ENDING_S
