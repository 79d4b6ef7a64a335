"""The registry of experiments: for each, the encoders that it compares and the function that measures them."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from accdistill_jax.reproduce.plan import regimes as r
from accdistill_jax.reproduce.plan import trials as t
from accdistill_jax.reproduce.plan import variants as v
from accdistill_jax.reproduce.plan.variants import EncoderVariant


def _names(variants: Iterable[EncoderVariant]) -> tuple[str, ...]:
    return tuple(variant.name for variant in variants)


class Experiment(NamedTuple):
    """An experiment, which is a section of the report.

    Attributes:
        id: name for `--only`, and first part of the names of its numbers.
        title: title of the section.
        variants: names of the encoders that it compares.
        measure: "module:function"; the function takes (Bench, Experiment) and returns a `ReportPart` whose section has this id.
        adds: variants that this experiment adds to the grid; others may name them too.
        synthetic_only: True if it needs the generator's ground truth.
        needs_unseen: True if it needs stores that are used for evaluation only.
        runs: names of its jobs; the plan fills them in.
    """

    id: str
    title: str
    variants: tuple[str, ...]
    measure: str
    adds: tuple[EncoderVariant, ...] = ()
    synthetic_only: bool = False
    needs_unseen: bool = False
    runs: tuple[str, ...] = ()


EXPERIMENTS: dict[str, Experiment] = {}
"""Id -> experiment, in the order of the report."""


def register(experiment: Experiment) -> None:
    """Adds an experiment to the grid.

    Raises:
        ValueError: its id, or the name of a variant that it adds, is already in use.
    """
    if experiment.id in EXPERIMENTS:
        raise ValueError(f"an experiment {experiment.id!r} is already registered")
    used = {variant.name for variant in registered_variants()}
    if duplicates := used & set(_names(experiment.adds)):
        raise ValueError(f"experiment {experiment.id!r} adds a variant that exists: {sorted(duplicates)[0]!r}")
    EXPERIMENTS[experiment.id] = experiment


def registered_variants() -> Iterator[EncoderVariant]:
    """All variants: those of the whole grid, then those that experiments add."""
    yield from v.SHARED
    for experiment in EXPERIMENTS.values():
        yield from experiment.adds


MEASURE = "accdistill_jax.reproduce.measure"
LEARNED_BASELINES = ("accel-mae", "accel-contrastive", "accel-contrastive-segment")
PROBED = (v.MAE_TEACHER, *_names(v.MAIN))

for _experiment in (
    Experiment(
        "label-fractions",
        "Heart rate and its variability, by share of the labels",
        (*PROBED, *_names(v.SUPERVISED)),
        f"{MEASURE}.label_fractions:measure_label_fractions",
        adds=v.SUPERVISED,
    ),
    Experiment(
        "agreement",
        "Agreement with the reference",
        (v.MAE_TEACHER, "student", "accel-mae", "classical"),
        f"{MEASURE}.label_fractions:measure_agreement",
    ),
    Experiment(
        "retrieval",
        "Retrieval: finding the PPG of the same minute from acceleration",
        (
            v.MAE_TEACHER,
            "student",
            "student-mean",
            "student-best",
            "student-long",
            "student-small",
            "student-tiny",
            "no-augmentation",
            "joint",
        ),
        f"{MEASURE}.retrieval:measure_retrieval",
    ),
    Experiment("failures", "When retrieval fails", (v.MAE_TEACHER, "student"), f"{MEASURE}.retrieval:measure_failures"),
    Experiment(
        "large-pool",
        "Retrieval in large pools, by heart rate and within one person",
        _names(r.IN_POOL),
        f"{MEASURE}.large_pool:measure_large_pool",
        adds=r.IN_POOL,
        synthetic_only=True,
    ),
    Experiment(
        "many-people",
        "Few labels of many people",
        _names((*r.PEOPLE_ENCODERS, *r.PEOPLE_SUPERVISED)),
        f"{MEASURE}.many_people:measure_many_people",
        adds=(*r.PEOPLE_ENCODERS, *r.PEOPLE_SUPERVISED),
        synthetic_only=True,
    ),
    Experiment(
        "repeated-minutes",
        "Augmentation where minutes repeat",
        _names(r.REPEATS),
        f"{MEASURE}.repeats:measure_repeats",
        adds=r.REPEATS,
    ),
    Experiment(
        "shared-motion",
        "Joint training where sensors share motion",
        _names(variant for of_scale in r.SHARED.values() for variant in of_scale),
        f"{MEASURE}.shared_motion:measure_shared_motion",
        adds=tuple(variant for of_scale in r.SHARED.values() for variant in of_scale),
        synthetic_only=True,
    ),
    Experiment(
        "participants",
        "Health targets of participants",
        (v.MAE_TEACHER, "student", "student-best", "accel-mae", "accel-contrastive", "untrained", "classical"),
        f"{MEASURE}.people:measure_participants",
    ),
    Experiment(
        "health",
        "Embedding health: variance, similarity to the teacher, collapse",
        (v.MAE_TEACHER, "student", "student-best", "joint", *LEARNED_BASELINES, "untrained"),
        f"{MEASURE}.embedding_health:measure_health",
    ),
    Experiment(
        "objectives",
        "Distillation objectives",
        (v.REFERENCE.name, *_names(v.OBJECTIVES)),
        f"{MEASURE}.sweeps:measure_objectives",
        adds=v.OBJECTIVES,
    ),
    Experiment(
        "augmentations",
        "Augmentations",
        (v.REFERENCE.name, *_names(v.AUGMENTATION_VARIANTS)),
        f"{MEASURE}.sweeps:measure_augmentations",
        adds=v.AUGMENTATION_VARIANTS,
    ),
    Experiment(
        "teachers",
        "Other teachers and architectures",
        (*_names(v.TEACHERS), v.REFERENCE.name, *_names(v.OTHER_STUDENTS), "accel-mae", "accel-contrastive"),
        f"{MEASURE}.sweeps:measure_teachers",
        adds=v.OTHER_STUDENTS,
    ),
    Experiment(
        "sizes",
        "Smaller students",
        (v.MAE_TEACHER, "student", "student-small", "accel-mae", v.REFERENCE.name, *_names(v.SIZES)),
        f"{MEASURE}.sweeps:measure_sizes",
        adds=v.SIZES,
    ),
    Experiment(
        "sensors",
        "Simulated coarser sensors",
        (v.MAE_TEACHER, "student", v.REFERENCE.name, *_names(v.SIMULATED_SENSORS)),
        f"{MEASURE}.sweeps:measure_sensors",
        adds=v.SIMULATED_SENSORS,
    ),
    Experiment(
        "transfer",
        "Transfer of probes to another sensor",
        ("student", "accel-mae", "applied-64th-g", "applied-25hz-64th-g"),
        f"{MEASURE}.transfer:measure_transfer",
    ),
    Experiment(
        "trials",
        "Changes of the student at equal training time",
        _names(t.TRIALS),
        f"{MEASURE}.trials:measure_trials",
        adds=(*t.TEACHERS, *t.TRIALS),
    ),
    Experiment(
        "unseen",
        "Unseen stores",
        (v.MAE_TEACHER, "student", "accel-mae", "accel-contrastive", "untrained", "classical"),
        f"{MEASURE}.transfer:measure_unseen",
        needs_unseen=True,
    ),
):
    register(_experiment)
