"""The size of each preset of the experiments, and its cost."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from accdistill_jax.reproduce.plan import variants
from accdistill_jax.reproduce.plan.experiments import registered_variants
from accdistill_jax.reproduce.plan.variants import EncoderVariant

VALIDATIONS = 10  # number of validations during supervised training, which keeps the best step


class Scale(NamedTuple):
    """Sizes and costs of a preset.

    Attributes:
        seeds: number of training seeds, for variants with several.
        short_share: training time of short variants, as a share of the student's.
        views: embeddings per training segment that the frozen teacher computes in advance; all students with the same
            augmentation of the PPG share them. Short variants use fewer, as they see each segment less often. 0: the teacher
            runs in every step.
        supervised: duration of supervised training, by fraction of the labels; "" means the student's duration.
        validation_batches: largest number of validation batches that judge a step of supervised training.
        best: changes of the best student.
        best_share: its number of steps as a share of the student's, so that both take the same time.
        long: changes of the student that is trained longer.
        long_share: its number of steps as a share of the student's.
        small: changes that make the student five times smaller than the teacher.
        sizes: variant -> changes, for the experiment on sizes.
        seconds: rough cost of generating the data, of a teacher, of a student and of an embedding.
        leave_out: variants (wildcards allowed) to skip, because other variants cover the same code.
    """

    seeds: int
    short_share: float
    views: int
    supervised: dict[float, str]
    validation_batches: int
    best: dict[str, Any]
    best_share: float
    long: dict[str, Any]
    long_share: float
    small: dict[str, Any]
    sizes: dict[str, dict[str, Any]]
    seconds: dict[str, float]
    leave_out: tuple[str, ...] = ()


def student_size(width: int, depth: int, *, heads: int = 4, ratio: float = 2, tokenizer=None) -> dict[str, Any]:
    """Changes that set the size of the student's Transformer.

    Args:
        width: width of the tokens.
        depth: number of layers.
        heads: number of attention heads.
        ratio: width of the hidden layer of the MLP, as a multiple of `width`.
        tokenizer: layers of the tokenizer, each (stride, width); None keeps those of the base config.
    """
    values = {"width": width, "depth": depth, "heads": heads, "mlp": round(ratio * width)}
    if tokenizer:
        values["tokenizer"] = tokenizer
    return {f"student.encoder.transformer.{key}": value for key, value in values.items()}


_CPU_SIZES = {
    "size-20th": student_size(20, 2, heads=2, tokenizer=((8, 12), (32, 20))),
    "size-5th": student_size(40, 3, ratio=1.5, tokenizer=((8, 20), (32, 36))),
    "size-half": {},
    "size-equal": student_size(80, 4, tokenizer=((8, 40), (32, 80))),
}
_PAPER_SIZES = {
    "size-20th": student_size(64, 6, ratio=4) | {"student.encoder.transformer.output": 256},
    "size-5th": student_size(128, 6, ratio=4) | {"student.encoder.transformer.output": 256},
    "size-half": student_size(256, 4, ratio=4),
    "size-equal": {},
}
# additions to the paper's method; chosen on validation people
_ADDITIONS = {"inputs.accel.bands": "low+high+envelope", "student.regression_weight": 1.0}
SCALES = {
    "smoke": Scale(
        seeds=1,
        short_share=0.5,
        views=0,
        supervised=dict.fromkeys(variants.FRACTIONS, "2 steps"),
        validation_batches=1,
        best=_ADDITIONS | {"teacher.cached_views": 2, "student.train.ema_decay": 0.9},
        best_share=1.0,
        long={},
        long_share=1.0,
        small=student_size(16, 1, heads=2),
        sizes={name: student_size(8 * k, 1, heads=2) for k, name in enumerate(_CPU_SIZES, 1)},
        seconds={"data": 1, "teacher": 3, "student": 3, "embed": 1},
        leave_out=(
            "student-long",
            "supervised-[sr]*",
            "supervised-hr-0.01",
            "supervised-hr-0.1",
            "lambda-*",
            "temperature-*",
            "regression-mse",
            "only-*",
            "without-[gcm]*",
            "augment-n*",
            "from-teacher-contrastive",
            "trained-25hz-*",
            "teacher-efficientnet",
            "from-teacher-efficientnet",
            "teacher-contrastive-segment",
            "from-teacher-contrastive-segment",
            "size-*h",
            "size-e*",
            "applied-[258o]*",
            "trained-[68o]*",
            "trained-50hz",
        ),
    ),
    "cpu": Scale(
        seeds=3,
        short_share=0.4,
        views=4,
        supervised={0.001: "150 steps", 0.01: "150 steps", 0.1: "300 steps", 1.0: ""},
        validation_batches=64,
        best=_ADDITIONS | {"student.train.ema_decay": 0.99, "student.drop_fraction": 0.5},
        best_share=1.64,
        long=_ADDITIONS | {"student.train.ema_decay": 0.99},
        long_share=6.0,
        small=_CPU_SIZES["size-5th"],
        sizes=_CPU_SIZES,
        seconds={"data": 60, "teacher": 100, "student": 220, "embed": 25},
    ),
    "full": Scale(
        seeds=3,
        short_share=0.25,
        views=0,
        supervised={0.001: "500 steps", 0.01: "1000 steps", 0.1: "5000 steps", 1.0: ""},
        validation_batches=32,
        best=_ADDITIONS | {"student.train.ema_decay": 0.999, "student.drop_fraction": 0.5, "teacher.cached_views": 4},
        best_share=2.0,
        long=_ADDITIONS | {"student.train.ema_decay": 0.999},
        long_share=5.0,
        small=_PAPER_SIZES["size-5th"],
        sizes=_PAPER_SIZES,
        seconds={"data": 3000, "teacher": 8000, "student": 14_000, "embed": 300},
    ),
}


def all_variants(scale: Scale) -> Iterator[EncoderVariant]:
    """Yields every registered variant, with the changes that the preset adds."""
    preset_changes = {
        "student-best": scale.best,
        "student-long": scale.long,
        "student-small": scale.small,
        **scale.sizes,
    }
    for variant in registered_variants():
        yield variant._replace(changes=variant.changes | preset_changes.get(variant.name, {}))
