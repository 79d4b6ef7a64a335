"""The experiments: what each compares, and where it is measured."""

from typing import NamedTuple

from accdistill_jax.reproduce.plan import variants as v


def _names(found) -> tuple[str, ...]:
    return tuple(variant.name for variant in found)


class Experiment(NamedTuple):
    """One section of the report.

    Attributes:
        id: on the command line and in the report.
        title: of its section.
        variants: the encoders that it compares.
        measure: "module:function" in accdistill_jax.reproduce.measure, called with the bench, gives a `ReportPart`.
        synthetic_only: needs the generator's truth.
        needs_unseen: needs stores that nothing was trained on.
        runs: its jobs, filled in by the plan.
    """

    id: str
    title: str
    variants: tuple[str, ...]
    measure: str
    synthetic_only: bool = False
    needs_unseen: bool = False
    runs: tuple[str, ...] = ()


LEARNED_BASELINES = ("accel-mae", "accel-contrastive", "accel-contrastive-segment")
PROBED = (v.MAE_TEACHER, *_names(v.MAIN))

EXPERIMENTS = (
    Experiment(
        "label-fractions",
        "Heart rate and its variability by share of labels",
        (*PROBED, *_names(v.SUPERVISED)),
        "label_fractions:measure_label_fractions",
    ),
    Experiment(
        "agreement",
        "Agreement with the reference",
        (v.MAE_TEACHER, "student", "accel-mae", "classical"),
        "label_fractions:measure_agreement",
    ),
    Experiment(
        "retrieval",
        "Does acceleration find the PPG of the same minute?",
        (v.MAE_TEACHER, "student", "student-best", "student-long", "student-small", "no-augmentation", "joint"),
        "retrieval:measure_retrieval",
    ),
    Experiment("failures", "What retrieval fails on", (v.MAE_TEACHER, "student"), "retrieval:measure_failures"),
    Experiment(
        "participants",
        "Health targets of people",
        (v.MAE_TEACHER, "student", "student-best", "accel-mae", "accel-contrastive", "untrained", "classical"),
        "people:measure_participants",
    ),
    Experiment(
        "health",
        "Health of the embeddings",
        (v.MAE_TEACHER, "student", "student-best", "joint", *LEARNED_BASELINES, "untrained"),
        "embedding_health:measure_health",
    ),
    Experiment(
        "objectives",
        "Contrast, regression, temperature, lambda",
        (v.REFERENCE.name, *_names(v.OBJECTIVES)),
        "sweeps:measure_objectives",
    ),
    Experiment(
        "augmentations",
        "One augmentation at a time",
        (v.REFERENCE.name, *_names(v.AUGMENTED)),
        "sweeps:measure_augmentations",
    ),
    Experiment(
        "teachers",
        "Other teachers, other students",
        (*_names(v.TEACHERS), v.REFERENCE.name, *_names(v.TAUGHT), "accel-mae"),
        "sweeps:measure_teachers",
    ),
    Experiment(
        "sizes",
        "Smaller students",
        (v.MAE_TEACHER, "student", "student-small", "accel-mae", v.REFERENCE.name, *_names(v.SIZES)),
        "sweeps:measure_sizes",
    ),
    Experiment(
        "sensors",
        "Lesser sensors",
        (v.MAE_TEACHER, "student", v.REFERENCE.name, *_names(v.LESSER)),
        "sweeps:measure_sensors",
    ),
    Experiment(
        "transfer",
        "From one sensor to another",
        ("student", "accel-mae", "applied-64th-g", "applied-25hz-64th-g"),
        "transfer:measure_transfer",
    ),
    Experiment(
        "unseen",
        "Stores that nothing was trained on",
        (v.MAE_TEACHER, "student", "accel-mae", "accel-contrastive", "untrained", "classical"),
        "transfer:measure_unseen",
        needs_unseen=True,
    ),
)
