"""Rules of the config's values: one table, from dotted key patterns to rules."""

import fnmatch
from collections.abc import Iterator, Mapping
from typing import Any

from accdistill_jax.config.fields import (
    Rule,
    above_zero,
    below_one,
    duration,
    each,
    integer,
    literal,
    number,
    row,
    size,
    text,
)
from accdistill_jax.labels import LABELS

STAGES = ("data", "teacher", "student", "evaluation", "report")
TEACHER_OBJECTIVES = ("masked", "contrastive")
STUDENT_OBJECTIVES = ("distillation", "masked", "contrastive", "supervised", "joint")
SAME_NAMES = ("same person", "different people")


# The first pattern that matches a key is its rule; `*` stands for anything, dots included.
RULES: tuple[tuple[str, Rule], ...] = (
    ("seed", integer()),
    ("stages", each(literal(*STAGES), at_least=1)),
    ("data.stores", each(text(empty=False))),
    ("data.unseen_stores", each(text(empty=False))),
    ("data.same_names", literal(*SAME_NAMES)),
    ("data.weights", each(above_zero())),
    ("data.participant_cap", integer()),
    ("data.read_concurrency", integer(1, 4096)),
    ("data.cache_mb", integer(0, 1_048_576)),
    ("data.synthetic.participants", integer(1, 1_000_000)),
    ("data.synthetic.segments_per_participant", integer(1, 10_000)),
    ("data.synthetic.seed", integer()),
    ("data.synthetic.ppg_channels", integer(1, 64)),
    ("data.synthetic.workers", integer(1, 1024)),
    ("inputs.*.bands", literal("full", "high", "low+high", "low+high+envelope")),
    ("inputs.*.scale", literal("std", "robust")),
    ("inputs.*.limit", number()),
    ("inputs.*.rate_share", number(0.01, 1)),
    ("inputs.*.step", number()),
    ("inputs.*.axes", integer(0, 64)),
    ("*.augment.*probability", number(0, 1)),
    ("*.augment.*cut_out.strength", number(0, 1)),
    ("*.augment.*strength", number()),
    ("*.augment.*knots", integer(2, 1024)),
    ("teacher.path", text()),
    ("teacher.fingerprint", text()),
    ("teacher.cached_views", integer(0, 1024)),
    ("teacher.objective", literal(*TEACHER_OBJECTIVES)),
    ("student.objective", literal(*STUDENT_OBJECTIVES)),
    ("*.autoencoder.drop_fraction", number(0.01, 0.99)),
    ("*.autoencoder.*", size()),
    ("*.contrastive.positives", literal("participant", "segment")),
    ("*.contrastive.temperature", above_zero()),
    ("*.contrastive.koleo_weight", number()),
    ("*.contrastive.momentum", below_one()),
    ("*.contrastive.head.*", size()),
    ("student.head.*", size()),
    ("student.drop_fraction", number(0, 0.95)),
    ("student.temperature", above_zero()),
    ("student.teacher_to_student_weight", number(0, 1)),
    ("student.contrastive_weight", number()),
    ("student.regression_weight", number()),
    ("student.regression", literal("cosine", "mse")),
    ("student.supervised.target", literal(*LABELS)),
    (
        "student.supervised.label_fraction",
        Rule(lambda v: number(0, 1).accepts(v) and v > 0, "a number above 0 and at most 1"),
    ),
    ("student.supervised.subset", integer()),
    ("*.encoder.architecture", literal("transformer", "efficientnet")),
    ("*.encoder.transformer.tokenizer", each(row("samples", "width"))),
    ("*.encoder.transformer.positions", literal("sinusoidal", "relative", "sinusoidal+relative")),
    ("*.encoder.transformer.residual", literal("float32", "compute")),
    ("*.encoder.transformer.output", integer(0, 65_536)),
    ("*.encoder.transformer.depth", integer(1, 1024)),
    ("*.encoder.transformer.*", size()),
    ("*.encoder.efficientnet.stem", row("width", "kernel", "stride")),
    (
        "*.encoder.efficientnet.stages",
        each(row("width", "depth", "stride", "kernel", "expansion"), at_least=1),
    ),
    ("*.encoder.efficientnet.*", size()),
    ("*.train.duration", duration()),
    ("*.train.warmup", duration()),
    ("*.train.*_every", duration()),
    ("*.train.batch_size", integer(2)),
    ("*.train.micro_batches", integer(1)),
    ("*.train.validation_batches", integer()),
    ("*.train.learning_rate", above_zero()),
    ("*.train.final_learning_rate_fraction", number(0, 1)),
    ("*.train.weight_decay", number()),
    ("*.train.b1", below_one()),
    ("*.train.b2", below_one()),
    ("*.train.clip_norm", number()),
    ("*.train.optimizer", literal("adamw", "muon")),
    ("*.train.muon.momentum", below_one()),
    ("*.train.muon.newton_schulz_steps", integer(1, 20)),
    ("*.train.ema_decay", below_one()),
    ("*.train.checkpoints_kept", integer(1)),
    ("*.train.keep", literal("last", "best")),
    ("evaluation.pool_sizes", each(integer(2))),
    ("evaluation.batch_size", integer(1)),
    ("evaluation.train_segments", integer(10)),
    ("evaluation.bootstrap_draws", integer(2)),
    ("evaluation.examples", integer()),
    ("runtime.mapping", literal("shard_map", "pmap")),
    ("runtime.optimizer_state", literal("replicated", "sharded")),
    ("runtime.peer_timeout_s", number(1)),
    ("runtime.hang_timeout_s", number(1)),
    ("runtime.compute_dtype", literal("float32", "bfloat16")),
    ("runtime.reader_threads", integer(1, 1024)),
    ("runtime.prefetch_batches", integer(1, 65_536)),
    ("runtime.rematerialise", literal("none", "blocks")),
    ("runtime.compilation_cache", text()),
    ("runtime.metrics", each(literal("tensorboard", "wandb", "mlflow"))),
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
    "runtime.metrics",
)

# Keys that came later, and the value by which everything is as it was without them: a run begun before them goes on.
LATER_KEYS = (
    {
        "teacher.cached_views": 0,
        "teacher.objective": "masked",
        "student.drop_fraction": 0.0,
        "student.objective": "distillation",
        "student.contrastive_weight": 1.0,
        "student.regression_weight": 0.0,
        "student.regression": "cosine",
        "teacher.encoder.transformer.residual": "float32",
        "student.encoder.transformer.residual": "float32",
    }
    | {f"{block}.train.optimizer": "adamw" for block in ("teacher", "student")}
    | {
        f"inputs.{name}.{key}": value
        for name in ("ppg", "accel")
        for key, value in (("rate_share", 1.0), ("step", 0.0), ("axes", 0))
    }
)

# Sections that decide the result only where a key has a certain value.
ONLY_WITH = {
    f"{block}.{section}.*": (f"{block}.objective", objective)
    for block in ("teacher", "student")
    for section, objective in (("autoencoder", "masked"), ("contrastive", "contrastive"), ("supervised", "supervised"))
} | {f"{block}.train.muon.*": (f"{block}.train.optimizer", "muon") for block in ("teacher", "student")}


def matches(key: str, pattern: str) -> bool:
    """True if a dotted key fits a pattern."""
    return fnmatch.fnmatchcase(key, pattern)


def find_rule(key: str) -> Rule | None:
    """The rule for a dotted key, or None where there is none."""
    return next((rule for pattern, rule in RULES if matches(key, pattern)), None)
