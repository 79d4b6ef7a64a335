"""`benchmark gpu`: what each part of the measurements is given, in full and in the rehearsal's sizes."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from accdistill_jax.benchmark.commands.step import FOLLOWED_WITH, without_augmentation
from accdistill_jax.benchmark.contest import Worker
from accdistill_jax.config import tree
from accdistill_jax.config.load import load_config

CONTENDERS = "accdistill_jax.benchmark.contenders"


class Sizes(NamedTuple):
    """Amounts of the measurements.

    Attributes:
        batches: segments per device of the contest; the first is the one whose steps are compared with PyTorch's.
        compiled: those that PyTorch is compiled for, too.
        variant_batch, large_batch: of the variants, and of those that are about memory.
        small_batches: of the default's models.
        rounds, round_s: measurements of each, and seconds of one.
        shrink: overrides of every encoder's sizes, by key of its `transformer`.
        steps, participants: of the training, and of its synthetic data.
        training_batch: of the training.
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


FULL = Sizes((256, 1024, 4096), (1024,), 1024, 8192, (128, 1024), 5, 0.5, {}, 300, 400, 512)
TINY_MODEL = {"patch": 240, "width": 16, "depth": 1, "heads": 4, "mlp": 32}
TINY = Sizes((4, 8), (), 4, 16, (4,), 2, 0.02, TINY_MODEL, 4, 12, 16)


class Context(NamedTuple):
    """Arguments that every part gets.

    Attributes:
        config: plain `--config` argument, and the overrides.
        sizes: how much is measured.
        folder: for files that need not be kept.
        remaining: seconds that are left of the limit.
        say: told of progress, a line each.
    """

    config: str
    overrides: tuple[str, ...]
    sizes: Sizes
    folder: Path
    remaining: Callable[[], float]
    say: Callable[[str], None]

    def plain(
        self, settings: Mapping[str, Any], *, config: str | None = None, augmented: bool = False
    ) -> dict[str, Any]:
        """A config of plain values with settings by flat key; the main one, in the rehearsal's sizes, unless another is named."""
        shrink = (
            {}
            if config
            else {
                f"{who}.encoder.transformer.{key}": value
                for who in ("teacher", "student")
                for key, value in self.sizes.shrink.items()
            }
        )
        overrides = self.overrides if config is None else ()
        words = [f"--config.{key}={value!r}" for key, value in (shrink | dict(settings)).items()]
        loaded = load_config(config or self.config, [*overrides, *words])
        values = tree.plain(loaded) if augmented else without_augmentation(loaded)
        values["student"]["train"] |= FOLLOWED_WITH
        return values

    def worker(self, module: str, order: Mapping[str, Any]) -> Worker:
        """A measuring process that answers before the time is up."""
        return Worker(f"{CONTENDERS}.{module}", order, patience_s=max(self.remaining(), 1.0))
