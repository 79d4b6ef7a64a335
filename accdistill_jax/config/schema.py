"""Rules of the config's values: one table, from dotted key patterns to rules."""

import fnmatch
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from accdistill_jax.config.duration import parse_duration
from accdistill_jax.errors import UserError

STAGES = ("data", "teacher", "student", "evaluation", "report")
TEACHER_OBJECTIVES = ("masked", "contrastive")
STUDENT_OBJECTIVES = ("distillation", "masked", "contrastive", "supervised", "joint")
LABELS = ("hr_bpm", "sdnn_ms", "rmssd_ms", "resp_bpm")
SAME_NAMES = ("same person", "different people")


class Rule(NamedTuple):
    """Rule that a config value must meet.

    Attributes:
        accepts: says whether a value is allowed.
        wanted: words for the message, for example "a whole number of at least 1".
        literals: the allowed values where they are a list, for the nearest valid one.
    """

    accepts: Callable[[Any], bool]
    wanted: str
    literals: tuple = ()


def _integer(minimum: int = 0, maximum: int = 2**31 - 1) -> Rule:
    def accepts(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= maximum

    return Rule(
        accepts, f"a whole number of at least {minimum}" + (f" and at most {maximum}" if maximum < 2**31 - 1 else "")
    )


def _number(minimum: float = 0.0, maximum: float = math.inf) -> Rule:
    def accepts(value: Any) -> bool:
        real = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        return real and minimum <= value <= maximum

    return Rule(
        accepts,
        f"a number of at least {minimum:g}" + (f" and at most {maximum:g}" if maximum < math.inf else ""),
    )


def _literal(*values: str) -> Rule:
    return Rule(lambda value: isinstance(value, str) and value in values, "one of " + ", ".join(values), values)


def _text(*, empty: bool = True) -> Rule:
    return Rule(
        lambda value: isinstance(value, str) and (empty or bool(value)),
        "a text" + ("" if empty else ", not empty"),
    )


def _each(item: Rule, *, at_least: int = 0) -> Rule:
    def accepts(value: Any) -> bool:
        return isinstance(value, (tuple, list)) and len(value) >= at_least and all(map(item.accepts, value))

    some = f" of at least {at_least}" if at_least else ""
    return Rule(accepts, f"a tuple{some}, each item {item.wanted}", item.literals)


def _row(*names: str) -> Rule:
    whole = _integer(1, 65_536)

    def accepts(value: Any) -> bool:
        return isinstance(value, (tuple, list)) and len(value) == len(names) and all(map(whole.accepts, value))

    return Rule(accepts, f"a tuple ({', '.join(names)}) of positive whole numbers")


def _is_duration(value: Any) -> bool:
    try:
        return isinstance(value, str) and parse_duration(value).amount >= 0
    except UserError:
        return False


_DURATION = Rule(_is_duration, "a duration such as '600 steps', '80000 examples' or '3 epochs'")
_ABOVE_ZERO = Rule(lambda value: _number().accepts(value) and value > 0, "a number above 0")
_BELOW_ONE = _number(0, 0.999999)

_SIZE = _integer(1, 65_536)  # a width, a length in samples, a number of heads

# The first pattern that matches a key is its rule; `*` stands for anything, dots included.
RULES: tuple[tuple[str, Rule], ...] = (
    ("seed", _integer()),
    ("stages", _each(_literal(*STAGES), at_least=1)),
    ("data.stores", _each(_text(empty=False))),
    ("data.unseen_stores", _each(_text(empty=False))),
    ("data.same_names", _literal(*SAME_NAMES)),
    ("data.weights", _each(_ABOVE_ZERO)),
    ("data.participant_cap", _integer()),
    ("data.read_concurrency", _integer(1, 4096)),
    ("data.cache_mb", _integer(0, 1_048_576)),
    ("data.synthetic.participants", _integer(1, 1_000_000)),
    ("data.synthetic.segments_per_participant", _integer(1, 10_000)),
    ("data.synthetic.seed", _integer()),
    ("data.synthetic.ppg_channels", _integer(1, 64)),
    ("data.synthetic.workers", _integer(1, 1024)),
    ("inputs.*.bands", _literal("full", "high", "low+high", "low+high+envelope")),
    ("inputs.*.scale", _literal("std", "robust")),
    ("inputs.*.limit", _number()),
    ("inputs.*.rate_share", _number(0.01, 1)),
    ("inputs.*.step", _number()),
    ("inputs.*.axes", _integer(0, 64)),
    ("*.augment.*probability", _number(0, 1)),
    ("*.augment.*cut_out.strength", _number(0, 1)),
    ("*.augment.*strength", _number()),
    ("*.augment.*knots", _integer(2, 1024)),
    ("teacher.path", _text()),
    ("teacher.fingerprint", _text()),
    ("teacher.cached_views", _integer(0, 1024)),
    ("teacher.objective", _literal(*TEACHER_OBJECTIVES)),
    ("student.objective", _literal(*STUDENT_OBJECTIVES)),
    ("*.autoencoder.drop_fraction", _number(0.01, 0.99)),
    ("*.autoencoder.*", _SIZE),
    ("*.contrastive.positives", _literal("participant", "segment")),
    ("*.contrastive.temperature", _ABOVE_ZERO),
    ("*.contrastive.koleo_weight", _number()),
    ("*.contrastive.momentum", _BELOW_ONE),
    ("*.contrastive.head.*", _SIZE),
    ("student.head.*", _SIZE),
    ("student.drop_fraction", _number(0, 0.95)),
    ("student.temperature", _ABOVE_ZERO),
    ("student.teacher_to_student_weight", _number(0, 1)),
    ("student.contrastive_weight", _number()),
    ("student.regression_weight", _number()),
    ("student.regression", _literal("cosine", "mse")),
    ("student.supervised.target", _literal(*LABELS)),
    (
        "student.supervised.label_fraction",
        Rule(lambda v: _number(0, 1).accepts(v) and v > 0, "a number above 0 and at most 1"),
    ),
    ("student.supervised.subset", _integer()),
    ("*.encoder.architecture", _literal("transformer", "efficientnet")),
    ("*.encoder.transformer.tokenizer", _each(_row("samples", "width"))),
    ("*.encoder.transformer.positions", _literal("sinusoidal", "relative", "sinusoidal+relative")),
    ("*.encoder.transformer.residual", _literal("float32", "compute")),
    ("*.encoder.transformer.output", _integer(0, 65_536)),
    ("*.encoder.transformer.depth", _integer(1, 1024)),
    ("*.encoder.transformer.*", _SIZE),
    ("*.encoder.efficientnet.stem", _row("width", "kernel", "stride")),
    (
        "*.encoder.efficientnet.stages",
        _each(_row("width", "depth", "stride", "kernel", "expansion"), at_least=1),
    ),
    ("*.encoder.efficientnet.*", _SIZE),
    ("*.train.duration", _DURATION),
    ("*.train.warmup", _DURATION),
    ("*.train.*_every", _DURATION),
    ("*.train.batch_size", _integer(2)),
    ("*.train.micro_batches", _integer(1)),
    ("*.train.validation_batches", _integer()),
    ("*.train.learning_rate", _ABOVE_ZERO),
    ("*.train.final_learning_rate_fraction", _number(0, 1)),
    ("*.train.weight_decay", _number()),
    ("*.train.b1", _BELOW_ONE),
    ("*.train.b2", _BELOW_ONE),
    ("*.train.clip_norm", _number()),
    ("*.train.ema_decay", _BELOW_ONE),
    ("*.train.checkpoints_kept", _integer(1)),
    ("*.train.keep", _literal("last", "best")),
    ("evaluation.pool_sizes", _each(_integer(2))),
    ("evaluation.batch_size", _integer(1)),
    ("evaluation.train_segments", _integer(10)),
    ("evaluation.bootstrap_draws", _integer(2)),
    ("evaluation.examples", _integer()),
    ("runtime.mapping", _literal("shard_map", "pmap")),
    ("runtime.optimizer_state", _literal("replicated", "sharded")),
    ("runtime.peer_timeout_s", _number(1)),
    ("runtime.hang_timeout_s", _number(1)),
    ("runtime.compute_dtype", _literal("float32", "bfloat16")),
    ("runtime.reader_threads", _integer(1, 1024)),
    ("runtime.prefetch_batches", _integer(1, 65_536)),
    ("runtime.rematerialise", _literal("none", "blocks")),
    ("runtime.compilation_cache", _text()),
)

# Names below a section whose rules above are for any name.
_NAMES = {
    "inputs.*": ("bands", "scale", "limit", "rate_share", "step", "axes"),
    "contrastive": ("positives", "temperature", "koleo_weight", "momentum", "head.hidden", "head.output"),
    "autoencoder": ("drop_fraction", "patch", "decoder_width", "decoder_depth", "decoder_heads"),
    "head": ("hidden", "output"),
    "transformer": ("patch", "width", "depth", "heads", "mlp", "tokenizer", "positions", "residual", "output"),
    "efficientnet": ("stem", "stages", "head", "output"),
    "augment": ("cut_out", "magnitude_warp", "gaussian_noise", "channel_permute", "time_warp"),
    "augmentation": ("probability", "strength", "knots"),
    "every": ("validate_every", "checkpoint_every", "log_every"),
}


def required_keys(flat: Mapping[str, Any]) -> Iterator[str]:
    """The keys that a flat config must have, given the stages and architectures it names."""
    blocks = ("teacher", "student") if "student" in flat.get("stages", ()) else ("teacher",)
    absent = () if "student" in blocks else ("student.",)
    for pattern, _ in RULES:
        if "*" not in pattern and not pattern.startswith(absent):
            yield pattern
        if pattern.startswith("*.train.") and "*" not in pattern[2:]:
            yield from (f"{block}{pattern[1:]}" for block in blocks)
    for modality in ("ppg", "accel"):
        yield from (f"inputs.{modality}.{name}" for name in _NAMES["inputs.*"])
    for block in blocks:
        yield from (f"{block}.autoencoder.{name}" for name in _NAMES["autoencoder"])
        yield from (f"{block}.contrastive.{name}" for name in _NAMES["contrastive"])
    sections = {"teacher": ("teacher.augment",), "student": ("student.augment.accel", "student.augment.ppg")}
    for block in blocks:
        yield from (f"{block}.train.{name}" for name in _NAMES["every"])
        yield f"{block}.encoder.architecture"
        architecture = flat.get(f"{block}.encoder.architecture", "transformer")
        yield from (f"{block}.encoder.{architecture}.{name}" for name in _NAMES[architecture])
        for section in sections[block]:
            yield from (f"{section}.{one}.{name}" for one in _NAMES["augment"] for name in _NAMES["augmentation"])
    if "student" in blocks:
        yield from (f"student.head.{name}" for name in _NAMES["head"])


# Keys that may change between a run and its continuation: they say how to run, not what comes out.
FREE_KEYS = (
    "stages",
    "data.unseen_stores",
    "data.same_names",
    "data.read_concurrency",
    "data.cache_mb",
    "data.synthetic.workers",
    "evaluation.*",
    "*.train.micro_batches",
    "*.train.checkpoints_kept",
    "runtime.mapping",
    "runtime.optimizer_state",
    "runtime.*_timeout_s",
    "runtime.reader_threads",
    "runtime.prefetch_batches",
    "runtime.rematerialise",
    "runtime.compilation_cache",
)

# Keys that came later, and the value by which everything is as it was without them: a run begun before them goes on.
LATER_KEYS = {
    "teacher.cached_views": 0,
    "teacher.objective": "masked",
    "student.drop_fraction": 0.0,
    "student.objective": "distillation",
    "student.contrastive_weight": 1.0,
    "student.regression_weight": 0.0,
    "student.regression": "cosine",
    "teacher.encoder.transformer.residual": "float32",
    "student.encoder.transformer.residual": "float32",
} | {
    f"inputs.{name}.{key}": value
    for name in ("ppg", "accel")
    for key, value in (("rate_share", 1.0), ("step", 0.0), ("axes", 0))
}

# Sections that decide the result only where a key has a certain value.
ONLY_WITH = {
    f"{block}.{section}.*": (f"{block}.objective", objective)
    for block in ("teacher", "student")
    for section, objective in (("autoencoder", "masked"), ("contrastive", "contrastive"), ("supervised", "supervised"))
}


def matches(key: str, pattern: str) -> bool:
    """True if a dotted key fits a pattern."""
    return fnmatch.fnmatchcase(key, pattern)


def find_rule(key: str) -> Rule | None:
    """The rule for a dotted key, or None where there is none."""
    return next((rule for pattern, rule in RULES if matches(key, pattern)), None)
