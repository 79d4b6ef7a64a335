"""The size of each preset of the experiments, and its cost."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from accdistill_jax.reproduce.plan import regimes, variants
from accdistill_jax.reproduce.plan.experiments import registered_variants
from accdistill_jax.reproduce.plan.variants import EncoderVariant

VALIDATIONS = 10  # number of validations during supervised training, which keeps the best step


class Population(NamedTuple):
    """Synthetic people besides those of the base config.

    Attributes:
        changes: settings that differ from the base config's `data.synthetic`; another seed gives other people.
        fractions: shares of train, validation and test people; None: the usual ones.
    """

    changes: dict[str, Any]
    fractions: tuple[float, float, float] | None = None


class Scale(NamedTuple):
    """Sizes and costs of a preset.

    Attributes:
        seeds: number of training seeds, for variants with several.
        supervised: duration of supervised training, by fraction of the labels; "" means the student's duration.
        validation_batches: largest number of validation batches that judge a step of supervised training.
        sizes: variant -> changes, for the experiment on sizes; "size-5th" and "size-20th" are the smaller students of others.
        seconds: rough cost of generating the data, of a teacher, of a student and of an embedding.
        short_share: training time of short variants, as a share of the student's.
        views: embeddings per training segment that the frozen teacher computes in advance; all students with the same
            augmentation of the PPG share them. Short variants use fewer, as they see each segment less often. 0: the teacher
            runs in every step.
        best: changes of the best student.
        best_share: its number of steps as a share of the student's, so that both take the same time.
        long: changes of the student that is trained longer.
        long_share: its number of steps as a share of the student's.
        populations: name -> further people.
        people: share of the labels of a corpus of 100 000 people -> share of the labels of the population "people".
        leave_out: variants (wildcards allowed) to skip, because others cover the same code or answer the same question.
        experiments: ids (wildcards allowed) of the experiments that the preset runs.
        literal_hidden: hidden units of the head of a student in the paper's literal form; its projection has 128 numbers.
    """

    seeds: int
    supervised: dict[float, str]
    validation_batches: int
    sizes: dict[str, dict[str, Any]]
    seconds: dict[str, float]
    short_share: float = 0.4
    views: int = 0
    best: dict[str, Any] = {}
    best_share: float = 1.0
    long: dict[str, Any] = {}
    long_share: float = 1.0
    populations: dict[str, Population] = {}
    people: dict[float, float] = {}
    leave_out: tuple[str, ...] = ()
    experiments: tuple[str, ...] = ("*",)
    literal_hidden: int = 256


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
# additions to the paper's method in its literal form; chosen on validation people
_ADDITIONS = {"inputs.accel.bands": "low+high+envelope", "student.regression_weight": 1.0}
# answers nothing any more beside windows and tokens, or could not be distinguished from the reference
_ANSWERED = (
    "student-best",
    "only-*",
    "without-*",
    "contrast-and-regression",
    "lambda-*",
    "trained-8bit",
    "applied-8bit",
)
# too many for a preset with few variants
_FURTHER = (
    "student-long",
    "regression-cosine",
    "teacher-contrastive-segment",
    "from-teacher-contrastive-segment",
    "joint-shared-3-0.1",
)
# the preset `trials` compares them, with three seeds
_IN_TRIALS = ("temperature-*",)
_REGIMES = ("repeated-minutes", "shared-motion", "many-people", "large-pool")
_FIRST_EXPERIMENTS = (
    "label-fractions",
    "agreement",
    "retrieval",
    "failures",
    "participants",
    "health",
    "objectives",
    "augmentations",
    "teachers",
    "sizes",
    "sensors",
    "transfer",
    "unseen",
)


def _populations(*, shared: tuple[int, int], people: int, pool: tuple[int, int]) -> dict[str, Population]:
    """The people of the regimes; pairs are people and minutes of each."""
    populations = {
        regimes.shared_population(scale): Population(
            {
                "seed": 3,
                "participants": shared[0],
                "segments_per_participant": shared[1],
                "shared_motion": float(scale),
            }
        )
        for scale in regimes.SHARED_SCALES
    }
    populations[regimes.PEOPLE] = Population({"seed": 4, "participants": people, "segments_per_participant": 1})
    populations[regimes.POOL] = Population(
        {"seed": 5, "participants": pool[0], "segments_per_participant": pool[1]}, (0.0, 0.0, 1.0)
    )
    return populations


_CPU = Scale(
    seeds=3,
    supervised={0.001: "80 steps", 0.01: "80 steps", 0.1: "150 steps", 1.0: ""},
    validation_batches=16,
    sizes=_CPU_SIZES,
    seconds={"data": 40, "teacher": 75, "student": 150, "embed": 10},
    long={"student.train.ema_decay": 0.99},
    long_share=3.0,
    populations=_populations(shared=(400, 20), people=1400, pool=(300, 38)),
    people={0.001: 0.1, 0.01: 1.0},
    leave_out=(
        *_ANSWERED,
        *_IN_TRIALS,
        "minutes-[248]*-mean-*",
        "minutes-1000-mean-*",
        "supervised-*-0.1-people",
    ),
    # `repeated-minutes` answers what `augmentations` asks
    experiments=(*(name for name in _FIRST_EXPERIMENTS if name != "augmentations"), *_REGIMES),
)
_CLAIMS = _CPU._replace(
    seeds=1,
    leave_out=(
        *_CPU.leave_out,
        *_FURTHER,
        "accel-contrastive-segment",
        "teacher-efficientnet-contrastive",
        "from-teacher-efficientnet-contrastive",
        "size-*",
        "minutes-[248]*",
        "minutes-1000-*",
        "*-shared-1",
        "joint-shared-1-*",
        "*-shared-10",
        "joint-shared-10-*",
    ),
    experiments=("label-fractions", "retrieval", "participants", "objectives", "teachers", *_REGIMES),
)
_CPU_MEAN = Scale(
    seeds=3,
    supervised={0.001: "150 steps", 0.01: "150 steps", 0.1: "300 steps", 1.0: ""},
    validation_batches=64,
    sizes=_CPU_SIZES,
    seconds={"data": 60, "teacher": 100, "student": 220, "embed": 25},
    views=4,
    best=_ADDITIONS | {"student.train.ema_decay": 0.99, "student.drop_fraction": 0.5},
    best_share=1.64,
    long=_ADDITIONS | {"student.train.ema_decay": 0.99},
    long_share=6.0,
    leave_out=("student-mean", "student-tiny", "contrast-mean"),
    experiments=_FIRST_EXPERIMENTS,
)
_SMOKE_SIZES = {name: student_size(8 * k, 1, heads=2) for k, name in enumerate(_CPU_SIZES, 1)}

SCALES = {
    "smoke": Scale(
        seeds=1,
        supervised=dict.fromkeys(variants.FRACTIONS, "2 steps"),
        validation_batches=1,
        sizes=_SMOKE_SIZES,
        seconds={"data": 1, "teacher": 3, "student": 3, "embed": 1},
        short_share=0.5,
        long={"student.train.ema_decay": 0.9},
        populations=_populations(shared=(24, 6), people=60, pool=(4, 8)),
        people=dict.fromkeys(regimes.PEOPLE_SHARES, 1.0) | {0.001: 0.5},
        leave_out=(
            *_ANSWERED,
            *_IN_TRIALS,
            *_FURTHER,
            "student-tiny",
            "supervised-[sr]*",
            "supervised-hr-0.01*",
            "supervised-hr-0.1*",
            "augment-n*",
            "from-teacher-contrastive",
            "trained-25hz-*",
            "teacher-efficientnet",
            "from-teacher-efficientnet",
            "size-*h",
            "size-e*",
            "applied-[25o]*",
            "trained-[6o]*",
            "trained-50hz",
            "minutes-[124]*",
            "minutes-8*",
            "minutes-500-mean-*",
            "*-shared-1*",
            "joint-shared-3-0.3",
            "student-mean-people",
            "trial-[24bdelp]*",
            "trial-c[o]*",
            "trial-s[ah]*",
        ),
    ),
    "claims": _CLAIMS,
    # the size of `claims`; the student of a trial has 40 % of its steps
    "trials": _CLAIMS._replace(seeds=3, leave_out=(), experiments=("trials",)),
    "cpu": _CPU,
    # the grid of the first committed reports: every student in the paper's literal form
    "cpu-mean": _CPU_MEAN,
    "full": _CPU._replace(
        supervised={0.001: "500 steps", 0.01: "1000 steps", 0.1: "5000 steps", 1.0: ""},
        validation_batches=32,
        sizes=_PAPER_SIZES,
        seconds={"data": 3000, "teacher": 8000, "student": 14_000, "embed": 300},
        short_share=0.25,
        long={"student.train.ema_decay": 0.999},
        populations=_populations(shared=(20_000, 100), people=140_000, pool=(320, 38)),
        people={0.001: 0.001, 0.01: 0.01, 0.1: 0.1},
        leave_out=_ANSWERED,
        experiments=(*_FIRST_EXPERIMENTS, *_REGIMES),
        literal_hidden=1024,
    ),
}
"""Preset -> size; the base config of a preset is that of configs/reproduce.py."""


def all_variants(scale: Scale) -> Iterator[EncoderVariant]:
    """Yields every registered variant, with the changes that the preset adds."""
    preset_changes = {
        "student-best": scale.best,
        "student-long": scale.long,
        "student-small": scale.sizes["size-5th"],
        "student-tiny": scale.sizes["size-20th"],
        **scale.sizes,
        **{
            regimes.people_supervised(target, share).name: {
                "student.supervised.label_fraction": fraction,
                # as long as with a similar number of labels of the preset's own people
                "student.train.duration": scale.supervised[0.01 if share < 0.01 else 0.1],
            }
            for target in variants.TARGETS
            for share, fraction in scale.people.items()
        },
    }
    for variant in registered_variants():
        changes = variant.changes | preset_changes.get(variant.name, {})
        if changes.get("student.head.windows") == 1:
            changes |= {"student.head.hidden": scale.literal_hidden, "student.head.output": 128}
        yield variant._replace(changes=changes)
