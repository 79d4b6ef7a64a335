"""Changes of the student that are tried at about equal training time, on validation people.

They are changes of the student that these trials found: its token regression has a weight of 1 that falls to 0.
"""

from accdistill_jax.reproduce.plan.variants import EncoderVariant

SHARE = 0.4  # of the student's steps, for the student without a change
BASE = "trial-none"


def _trial(name: str, title: str, changes: dict, *, steps: float = 1.0, teacher: str = "") -> EncoderVariant:
    """A trial; `steps` is its number of steps as a share of the base's, so that it takes about as long."""
    variant = EncoderVariant(name, title, changes=_FORMER | changes, seeds="all", share=SHARE * steps)
    return variant._replace(teacher=teacher) if teacher else variant


LONGER_TEACHER = EncoderVariant(
    "teacher-longer",
    "PPG teacher, three times the steps",
    "teacher",
    teacher="",
    seeds="all",
    share=3.0,
)
BREATHING_TEACHER = EncoderVariant(
    "teacher-breathing",
    "PPG teacher with a band of breathing",
    "teacher",
    {"inputs.ppg.bands": "full+breathing"},
    teacher="",
    seeds="all",
)
TEACHERS = (LONGER_TEACHER, BREATHING_TEACHER)
_FORMER = {"student.token_weight": 1.0, "student.token_schedule": "linear"}
_CONSTANT = {"student.token_weight": 1.0, "student.token_schedule": "constant"}
# Steps: by the seconds of a step on two cores, roughly. The table states the seconds that a training took.
TRIALS = (
    _trial(BASE, "none: the student before these trials", {}),
    _trial(
        "trial-patch-32",
        "tokens of 32 samples",
        {"student.encoder.transformer.patch": 32, "student.encoder.transformer.tokenizer": ((8, 32),)},
        steps=0.6,
    ),
    _trial(
        "trial-stem",
        "convolutional stem",
        {
            "student.encoder.transformer.stem": ((32, 16, 4), (64, 8, 4)),
            "student.encoder.transformer.tokenizer": (),
        },
        steps=0.6,
    ),
    _trial("trial-batch-256", "batches of 256", {"student.train.batch_size": 256}, steps=0.5),
    _trial("trial-temperature-0.04", "temperature 0.04", {"student.temperature": 0.04}),
    _trial("trial-learned-temperature", "learned temperature", {"student.contrast.temperature_bounds": (0.01, 1.0)}),
    _trial(
        "trial-sigmoid",
        "sigmoid loss of pairs, learned temperature and bias",
        {
            "student.contrast.loss": "sigmoid",
            "student.contrast.temperature_bounds": (0.01, 1.0),
            "student.contrast.bias": -5.0,
            "student.temperature": 0.1,
        },
    ),
    _trial("trial-same-person", "16 minutes of a person together in a batch", {"student.contrast.same_person": 16}),
    _trial("trial-same-rate", "16 minutes of about the same heart rate together", {"student.contrast.same_rate": 16}),
    _trial("trial-ema", "averaged parameters", {"student.train.ema_decay": 0.99}),
    _trial(
        "trial-muon",
        "optimiser Muon",
        {"student.train.optimizer": "muon"},
        steps=0.9,
    ),
    _trial("trial-drop", "half of the tokens dropped", {"student.drop_fraction": 0.5}, steps=1.4),
    _trial("trial-constant-tokens", "token regression of constant weight", _CONSTANT),
    _trial(
        "trial-constant-heavy",
        "token regression of constant weight, three times as heavy",
        _CONSTANT | {"student.token_weight": 3.0},
    ),
    _trial(
        "trial-constant-ten",
        "token regression of constant weight, ten times as heavy",
        _CONSTANT | {"student.token_weight": 10.0},
    ),
    _trial("trial-12-windows", "12 windows of 5 s", {"student.head.windows": 12}),
    _trial("trial-equal-windows", "windows of equal weight", {"student.head.weighting": "equal"}),
    _trial(
        "trial-clocks",
        "clocks up to 0.25 s apart in training",
        {
            "student.augment.accel.clock_offset.probability": 0.8,
            "student.augment.accel.clock_offset.strength": 16.0,
        },
    ),
    _trial(
        "trial-shift", "minutes shifted by up to half a token, both sensors alike", {"student.augment.shared_shift": 32}
    ),
    _trial("trial-breathing-teacher", "a teacher with a band of breathing", {}, teacher=BREATHING_TEACHER.name),
    _trial("trial-longer-teacher", "a teacher trained three times as long", {}, teacher=LONGER_TEACHER.name),
)
