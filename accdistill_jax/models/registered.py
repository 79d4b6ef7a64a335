"""The built-in encoder architectures with their options, and the facts that a config check needs; imports no jax."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

from accdistill_jax.config.fields import each, integer, one_of, row, setting, size
from accdistill_jax.config.registry import ENCODERS, resolve
from accdistill_jax.errors import UserError

POSITIONS = ("sinusoidal", "relative", "sinusoidal+relative")


@dataclasses.dataclass(frozen=True)
class Architecture:
    """An encoder's registration: its constructor and the facts that other code asks for; no other code compares names.

    Attributes:
        build: `build(options, *, dtype, rematerialise) -> models.protocol.Encoder`, or "module:attribute".
        token_options: changes of the options for an objective that reads tokens only, so that no layer stays untrained.
        drops_tokens: True if the encoder has a `patch`: it can leave out tokens at no cost.
        relative_step_time: seconds of a step over those of the Transformer of a preset, roughly, on CPU.
        gains_from_core_devices: `gains_from_core_devices(options)` is True if a training step on a CPU is faster with a device per
            core than with one device for all cores; None: never.
        check: `check(options, key)` raises UserError for options that contradict each other; `key` is the section's dotted
            key, for the message.
    """

    build: Any
    token_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    drops_tokens: bool = False
    relative_step_time: float = 1.0
    gains_from_core_devices: Callable[[Any], bool] | None = None
    check: Callable[[Any, str], None] | None = None

    def load(self) -> Callable[..., Any]:
        """The constructor, imported on first use."""
        return resolve(self.build)


@dataclasses.dataclass(frozen=True)
class TransformerOptions:
    """Options of the Transformer; the defaults are the sizes of the paper preset."""

    patch: int = setting(20, size(), "length of a token", unit="samples")
    width: int = setting(256, size(), "features of a token")
    depth: int = setting(8, integer(1, 1024), "number of blocks")
    heads: int = setting(4, size(), "attention heads; they divide the width")
    mlp: int = setting(1024, size(), "hidden width of each block's MLP")
    tokenizer: tuple[tuple[int, int], ...] = setting(
        (), each(row("samples", "width")), "levels (samples, width) inside a patch, finest first; () is linear"
    )
    stem: tuple[tuple[int, int, int], ...] = setting(
        (),
        each(row("width", "kernel", "stride")),
        "convolutions over the whole signal before it is cut into tokens, in place of a tokenizer; () is none",
        added=True,
    )
    positions: str = setting("sinusoidal", one_of(*POSITIONS), "position codes of the tokens")
    residual: str = setting(
        "float32",
        one_of("float32", "compute"),
        "dtype of the tokens between blocks; compute is runtime.compute_dtype",
        added=True,
    )
    output: int = setting(0, integer(0, 65_536), "embedding size; 0 is the width")


def _check_transformer(options: TransformerOptions, key: str) -> None:
    sizes = [*(samples for samples, _ in options.tokenizer), options.patch]
    if any(larger % smaller for smaller, larger in itertools.pairwise(sizes)):
        raise UserError(
            f"config.{key}.tokenizer = {options.tokenizer!r}: the samples of each level must divide those of the "
            f"next, and the last config.{key}.patch = {options.patch}"
        )
    _check_stem(options, key)
    if options.width % options.heads:
        raise UserError(
            f"config.{key}.width = {options.width} must be a multiple of config.{key}.heads = {options.heads}"
        )
    if "relative" in options.positions and options.width // options.heads % 2:
        raise UserError(
            f"config.{key}.positions = {options.positions!r} turns pairs of a head's features, and config.{key}.width = {options.width} "
            f"over config.{key}.heads = {options.heads} gives each head an odd number: change one of them, or take 'sinusoidal'"
        )


def _check_stem(options: TransformerOptions, key: str) -> None:
    stem = f"config.{key}.stem = {options.stem!r}"
    if options.stem and options.tokenizer:
        raise UserError(f"{stem} replaces the tokenizer: set config.{key}.tokenizer to ()")
    if options.patch % math.prod(stride for _, _, stride in options.stem):
        raise UserError(f"{stem}: the product of the strides must divide config.{key}.patch = {options.patch}")
    if any(kernel < stride for _, kernel, stride in options.stem):
        raise UserError(f"{stem}: a kernel shorter than its stride would skip samples; make it at least as long")


# Operations per token in the products with weights of a forward pass. Measured on two cores in float32: the paper's sizes (12.6 million)
# gain 1.00 to 1.12 times, a smaller model (5.3 million) 1.08, one of 1 million nothing; see the guide of the benchmarks.
_LARGE_FLOPS_PER_TOKEN = 5_000_000


def _is_large(options: TransformerOptions) -> bool:
    """True for about two fifths of the paper's operations per token, or more."""
    return 2 * options.depth * options.width * (4 * options.width + 2 * options.mlp) >= _LARGE_FLOPS_PER_TOKEN


@dataclasses.dataclass(frozen=True)
class EfficientNetOptions:
    """Options of the EfficientNet; the defaults are the sizes of the paper preset."""

    stem: tuple[int, int, int] = setting((32, 7, 2), row("width", "kernel", "stride"), "first convolution")
    stages: tuple[tuple[int, int, int, int, int], ...] = setting(
        (
            (16, 1, 1, 3, 1),
            (24, 2, 2, 3, 6),
            (40, 2, 2, 5, 6),
            (80, 3, 2, 3, 6),
            (112, 3, 1, 5, 6),
            (192, 3, 2, 5, 6),
            (320, 1, 1, 3, 6),
        ),
        each(row("width", "depth", "stride", "kernel", "expansion"), at_least=1),
        "stages of inverted bottlenecks",
    )
    head: int = setting(768, size(), "width of the last layer before pooling")
    output: int = setting(256, size(), "embedding size")


ENCODERS.register(
    "transformer",
    Architecture(
        "accdistill_jax.models.build:build_transformer",
        token_options={"output": 0},
        drops_tokens=True,
        gains_from_core_devices=_is_large,
        check=_check_transformer,
    ),
    options=TransformerOptions,
)
ENCODERS.register(
    "efficientnet",
    Architecture("accdistill_jax.models.build:build_efficientnet", relative_step_time=6.0),
    options=EfficientNetOptions,
)
