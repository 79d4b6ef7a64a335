"""The encoders that the experiments compare; each changes a few keys of the base config."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from accdistill_jax.labels import expected_labels

AUGMENTATIONS = ("cut_out", "magnitude_warp", "gaussian_noise", "channel_permute", "time_warp")
TARGETS = expected_labels()
FRACTIONS = (0.001, 0.01, 0.1, 1.0)
MAE_TEACHER = "teacher-mae"


class EncoderVariant(NamedTuple):
    """An encoder of the grid.

    Attributes:
        name: name in file names, numbers and `--list`.
        title: title in reports.
        kind: "teacher", "student", "untrained", "classical" (hand-made features), "matcher" (the classical search for a minute's
            PPG), or "sensor" (a trained encoder that reads signals of a coarser sensor or of another population).
        changes: changed values of the base config, by dotted key.
        teacher: name of the variant it learns from; "" for none.
        of: name of the variant whose encoder a "sensor" variant uses.
        population: name of the synthetic people that it is trained on and embeds (scales.py); "" for those of the plan.
        seeds: "all" trains with every seed of the preset, "first" with the first seed only.
        rows: training segments to embed: "all", "some" (`config.evaluation.train_segments`) or "none".
        short: True for a shorter training; such variants are compared among themselves.
        share: number of steps as a share of the student's; None: by `short` and the preset.
    """

    name: str
    title: str
    kind: str = "student"
    changes: dict[str, Any] = {}
    teacher: str = MAE_TEACHER
    of: str = ""
    population: str = ""
    seeds: str = "first"
    rows: str = "some"
    short: bool = False
    share: float | None = None


PAPER_FORM: dict[str, Any] = {
    "student.head.windows": 1,
    "student.head.weighting": "equal",
    "student.token_weight": 0.0,
    "student.token_schedule": "constant",
}
"""Changes that give a student the paper's literal form: the mean over a minute's tokens, no regression onto tokens."""


def without_augmentations(modality: str | None = None) -> dict[str, float]:
    """Changes that switch off all augmentations, of both modalities or of one."""
    modalities = (modality,) if modality else ("accel", "ppg")
    one_view = {"teacher.cached_views": 1} if "ppg" in modalities else {}  # without augmentation all views are equal
    return one_view | _left_out(AUGMENTATIONS, modalities)


def only_augmentation(name: str) -> dict[str, float]:
    """Changes that switch off all augmentations except one."""
    return _left_out([other for other in AUGMENTATIONS if other != name])


def leave_out_augmentation(name: str) -> dict[str, float]:
    """Changes that switch off one augmentation."""
    return _left_out([name])


def _left_out(names: Iterable[str], modalities: Iterable[str] = ("accel", "ppg")) -> dict[str, float]:
    return {f"student.augment.{modality}.{name}.probability": 0.0 for modality in modalities for name in names}


BASELINE = {"teacher": "", "seeds": "all", "rows": "all"}

TEACHERS = (
    EncoderVariant(MAE_TEACHER, "PPG teacher, masked autoencoding", "teacher", seeds="all", rows="all", teacher=""),
    EncoderVariant(
        "teacher-contrastive",
        "PPG teacher, contrastive, positives of one participant",
        "teacher",
        {"teacher.objective": "contrastive"},
        teacher="",
    ),
    EncoderVariant(
        "teacher-contrastive-segment",
        "PPG teacher, contrastive, positives of one segment",
        "teacher",
        {"teacher.objective": "contrastive", "teacher.contrastive.positives": "segment"},
        teacher="",
    ),
    EncoderVariant(
        "teacher-efficientnet",
        "PPG teacher, EfficientNet, masked autoencoding",
        "teacher",
        {"teacher.encoder.architecture": "efficientnet"},
        teacher="",
    ),
    EncoderVariant(
        "teacher-efficientnet-contrastive",
        "PPG teacher, EfficientNet, contrastive",
        "teacher",
        {"teacher.encoder.architecture": "efficientnet", "teacher.objective": "contrastive"},
        teacher="",
    ),
)

MAIN = (
    EncoderVariant("student", "distilled student", seeds="all", rows="all"),
    EncoderVariant("student-mean", "student in the paper's literal form", changes=PAPER_FORM, seeds="all", rows="all"),
    EncoderVariant("student-best", "best student at equal training time", seeds="all", rows="all"),
    EncoderVariant("student-long", "student with additions to the method and longer training", rows="all"),
    EncoderVariant("student-small", "distilled student, 5x smaller", seeds="all", rows="all"),
    EncoderVariant("student-tiny", "distilled student, 20x smaller", seeds="all", rows="all"),
    EncoderVariant(
        "no-augmentation",
        "distilled student, no augmentation",
        changes=without_augmentations(),
        seeds="all",
        rows="all",
    ),
    EncoderVariant("joint", "both encoders trained jointly", changes={"student.objective": "joint"}, **BASELINE),
    EncoderVariant(
        "accel-mae", "acceleration, masked autoencoding", changes={"student.objective": "masked"}, **BASELINE
    ),
    EncoderVariant(
        "accel-contrastive",
        "acceleration, contrastive, positives of one participant",
        changes={"student.objective": "contrastive"},
        **BASELINE,
    ),
    EncoderVariant(
        "accel-contrastive-segment",
        "acceleration, contrastive, positives of one segment",
        changes={"student.objective": "contrastive", "student.contrastive.positives": "segment"},
        **BASELINE,
    ),
    EncoderVariant("untrained", "untrained encoder", "untrained", **BASELINE),
    EncoderVariant("classical", "hand-made features", "classical", teacher="", rows="all"),
)


def supervised_variant(target: str, fraction: float) -> EncoderVariant:
    """Supervised training on one label, with a fraction of the labels."""
    name = f"supervised-{target.split('_')[0]}-{fraction:g}"
    return EncoderVariant(
        name,
        f"supervised on {target.split('_')[0].upper()}, {fraction:.1%} of labels",
        changes={
            "student.objective": "supervised",
            "student.supervised.target": target,
            "student.supervised.label_fraction": fraction,
            "student.train.keep": "best",
        },
        teacher="",
        seeds="all",
        rows="none",
    )


SUPERVISED = tuple(supervised_variant(target, fraction) for target in TARGETS for fraction in FRACTIONS)

# the reference of all short variants
REFERENCE = EncoderVariant("student-short", "distilled student, short", short=True, seeds="all")
_REGRESSION = PAPER_FORM | {"student.contrastive_weight": 0.0, "student.regression_weight": 1.0}
OBJECTIVES = (
    EncoderVariant("contrast-mean", "contrast, in the paper's literal form", changes=PAPER_FORM, short=True),
    EncoderVariant(
        "lambda-0", "student to teacher only (lambda 0)", changes={"student.teacher_to_student_weight": 0.0}, short=True
    ),
    EncoderVariant(
        "lambda-1", "teacher to student only (lambda 1)", changes={"student.teacher_to_student_weight": 1.0}, short=True
    ),
    EncoderVariant("temperature-0.02", "temperature 0.02", changes={"student.temperature": 0.02}, short=True),
    EncoderVariant("temperature-0.04", "temperature 0.04", changes={"student.temperature": 0.04}, short=True),
    EncoderVariant("temperature-0.2", "temperature 0.2", changes={"student.temperature": 0.2}, short=True),
    EncoderVariant(
        "regression-mse",
        "regression, squared error",
        short=True,
        changes=_REGRESSION | {"student.regression": "mse"},
    ),
    EncoderVariant(
        "regression-cosine",
        "regression, cosine",
        short=True,
        changes=_REGRESSION,
    ),
    EncoderVariant(
        "contrast-and-regression",
        "contrast and cosine regression",
        short=True,
        changes={"student.regression_weight": 2.0},
    ),
)
AUGMENTATION_VARIANTS = (
    EncoderVariant("augment-none", "no augmentation", changes=without_augmentations(), short=True),
    EncoderVariant(
        "augment-not-teacher", "acceleration augmented, PPG not", changes=without_augmentations("ppg"), short=True
    ),
    *(
        EncoderVariant(
            f"only-{a.replace('_', '-')}", f"only {a.replace('_', ' ')}", changes=only_augmentation(a), short=True
        )
        for a in AUGMENTATIONS
    ),
    *(
        EncoderVariant(
            f"without-{a.replace('_', '-')}",
            f"without {a.replace('_', ' ')}",
            changes=leave_out_augmentation(a),
            short=True,
        )
        for a in AUGMENTATIONS
    ),
)
OTHER_STUDENTS = (
    *(EncoderVariant(f"from-{t.name}", f"student of the {t.title}", teacher=t.name, short=True) for t in TEACHERS[1:]),
    EncoderVariant(
        "student-efficientnet",
        "EfficientNet student",
        changes={"student.encoder.architecture": "efficientnet"},
        short=True,
    ),
)
SENSORS = {
    "50hz": ("50 Hz", {"inputs.accel.simulated_rate_fraction": 50 / 64}),
    "25hz": ("25 Hz", {"inputs.accel.simulated_rate_fraction": 25 / 64}),
    "64th-g": ("1/64 g steps", {"inputs.accel.simulated_step": 1 / 64}),
    "8bit": ("8 bit over ±8 g (1/16 g)", {"inputs.accel.simulated_step": 1 / 16}),
    "one-axis": ("one axis", {"inputs.accel.simulated_axes": 1}),
    "25hz-64th-g": (
        "25 Hz, 1/64 g steps",
        {"inputs.accel.simulated_rate_fraction": 25 / 64, "inputs.accel.simulated_step": 1 / 64},
    ),
}
SIMULATED_SENSORS = tuple(
    variant
    for name, (title, changes) in SENSORS.items()
    for variant in (
        EncoderVariant(
            f"applied-{name}", f"{title}: student trained on the full sensor", "sensor", changes, of="student"
        ),
        EncoderVariant(f"trained-{name}", f"{title}: student trained on this sensor", changes=changes, short=True),
    )
)
SIZES = (
    EncoderVariant("size-20th", "20x fewer parameters than the teacher", short=True),
    EncoderVariant("size-5th", "5x fewer parameters than the teacher", short=True),
    EncoderVariant("size-half", "2x fewer parameters than the teacher", short=True),
    EncoderVariant("size-equal", "as many parameters as the teacher", short=True),
)
SHARED = (*TEACHERS, *MAIN, REFERENCE)
"""Variants that several experiments use."""
