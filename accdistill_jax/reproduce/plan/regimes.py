"""The encoders of experiments that test a claim in its own regime: minutes that repeat, shared motion, many people, large pools."""

from accdistill_jax.reproduce.plan import variants as v
from accdistill_jax.reproduce.plan.variants import EncoderVariant

DISTINCT_MINUTES = (500, 1000, 2000, 4000, 8000, 17_000)


def repeats_variant(minutes: int, *, augmented: bool, literal: bool = False) -> EncoderVariant:
    """A short student that sees this many distinct minutes again and again; the teacher runs in every step.

    Args:
        minutes: number of distinct training minutes.
        augmented: False switches all augmentations off, those of the PPG too.
        literal: True gives the student the paper's literal form.
    """
    form, of_form = ("mean-", ", in the paper's literal form") if literal else ("", "")
    return EncoderVariant(
        f"minutes-{minutes}-{form}{'augmented' if augmented else 'plain'}",
        f"{minutes} distinct minutes, {'with' if augmented else 'without'} augmentation{of_form}",
        changes=(v.PAPER_FORM if literal else {})
        | ({} if augmented else v.without_augmentations())
        | {"data.store_cap": minutes, "teacher.cached_views": 0},
        seeds="all",
        short=True,
    )


REPEATS = tuple(
    repeats_variant(minutes, augmented=on, literal=literal)
    for literal in (False, True)
    for minutes in DISTINCT_MINUTES
    for on in (True, False)
)

SHARED_SCALES = (1, 3, 10)
JOINT_SHARES = (0.1, 0.3, 1.0)


def shared_population(scale: int) -> str:
    """Name of the people whose sensors share motion of a scale."""
    return f"shared-{scale}"


def joint_name(scale: int, share: float) -> str:
    """Name of the jointly trained encoder of a scale and a share of the steps."""
    return f"joint-shared-{scale}-{share:g}"


def _shared_variants(scale: int) -> tuple[EncoderVariant, ...]:
    people = shared_population(scale)
    teacher = EncoderVariant(
        f"teacher-{people}",
        f"PPG teacher, shared motion {scale}",
        "teacher",
        teacher="",
        population=people,
    )
    student = EncoderVariant(
        f"student-{people}",
        f"distilled student, shared motion {scale}",
        teacher=teacher.name,
        population=people,
        changes={"teacher.cached_views": 0},
    )
    joint = tuple(
        EncoderVariant(
            joint_name(scale, share),
            f"both encoders trained jointly, shared motion {scale}, {share:.0%} of the steps",
            changes={"student.objective": "joint"},
            teacher="",
            population=people,
            share=share,
        )
        for share in JOINT_SHARES
    )
    return teacher, student, *joint


SHARED = {scale: _shared_variants(scale) for scale in SHARED_SCALES}

POOL, PEOPLE = "pool", "people"  # populations


def moved(name: str, title: str, population: str, *, seeds: str = "all") -> EncoderVariant:
    """A trained encoder that embeds another population."""
    return EncoderVariant(
        f"{name}-{population}", title, "sensor", of=name, population=population, seeds=seeds, rows="all", teacher=""
    )


def _moved_student(name: str, title: str, population: str) -> EncoderVariant:
    return moved(name, title, population)._replace(teacher=v.MAE_TEACHER)


IN_POOL = (
    _moved_student("student", "distilled student", POOL),
    _moved_student("student-mean", "student in the paper's literal form", POOL),
    EncoderVariant(
        f"matcher-{POOL}", "classical matcher of envelope and upstroke", "matcher", teacher="", population=POOL
    ),
)

PEOPLE_SHARES = (0.001, 0.01, 0.1)  # of the labels of a corpus of 100 000 people


def people_supervised(target: str, share: float) -> EncoderVariant:
    """Supervised training on one minute of each of many people."""
    variant = v.supervised_variant(target, share)
    return variant._replace(name=f"{variant.name}-{PEOPLE}", population=PEOPLE)


PEOPLE_ENCODERS = (
    moved(v.MAE_TEACHER, "PPG teacher, masked autoencoding", PEOPLE),
    _moved_student("student", "distilled student", PEOPLE),
    _moved_student("student-mean", "student in the paper's literal form", PEOPLE),
    moved("accel-mae", "acceleration, masked autoencoding", PEOPLE),
    moved("accel-contrastive", "acceleration, contrastive, positives of one participant", PEOPLE),
    EncoderVariant(f"classical-{PEOPLE}", "hand-made features", "classical", teacher="", population=PEOPLE, rows="all"),
)
PEOPLE_SUPERVISED = tuple(people_supervised(target, share) for target in v.TARGETS for share in PEOPLE_SHARES)
