"""The built-in objectives and the facts about an objective that a config check needs; imports no jax."""

import dataclasses
import enum
from collections.abc import Callable
from typing import Any

from accdistill_jax.config.contrast import ContrastConfig
from accdistill_jax.config.fields import above_zero, below_one, integer, number, one_of, setting, size
from accdistill_jax.config.registry import OBJECTIVES, resolve
from accdistill_jax.config.schema import HeadConfig, StudentConfig
from accdistill_jax.config.tree import section
from accdistill_jax.errors import UserError
from accdistill_jax.labels import LABELS

# The objective of a student export that names none: the first version had no other objective.
UNNAMED = "distillation"


class PPG(enum.Enum):
    """The PPG encoder beside the one that an objective trains and exports."""

    NONE = "none"
    FROZEN = "a teacher, frozen"
    TRAINED = "trained with it"


@dataclasses.dataclass(frozen=True)
class RegisteredObjective:
    """An objective's registration: the class and the facts that other code asks for; no other code compares names.

    Attributes:
        implementation: subclass of `objectives.base.Objective`, or "module:attribute".
        ppg: the PPG encoder beside the trained one. A frozen teacher allows `teacher.cached_views`.
        reads_tokens: True if the loss reads the encoder's tokens only, so that an output layer would stay untrained: the
            encoder is then built without. A function of the stage's config section where that decides it.
        drops_tokens: True if the loss reads `student.drop_fraction`.
        regresses_tokens: True if the loss reads `student.token_weight` and `student.token_schedule`.
        student_head: True if the loss reads `student.head`.
        contrasts_sensors: True if the loss reads `student.contrast`.
        draws_people: True for a config section with which it trains on people that are drawn by name, so that `data.same_names`
            decides the draw among several stores; None: never.
        own_average: True if it keeps an average of the parameters, which excludes `train.ema_decay`.
        relative_step_time: seconds of a step over those of the default objective's, roughly, on CPU.
        check: raises UserError for options of the stage's config section that contradict each other; None: none can.
    """

    implementation: Any
    ppg: PPG = PPG.NONE
    reads_tokens: bool | Callable[[Any], bool] = False
    drops_tokens: bool = False
    regresses_tokens: bool = False
    student_head: bool = False
    contrasts_sensors: bool = False
    draws_people: Callable[[Any], bool] | None = None
    own_average: bool = False
    relative_step_time: float = 1.0
    check: Callable[[Any], None] | None = None

    @property
    def needs_teacher(self) -> bool:
        """True if the objective learns from a frozen teacher."""
        return self.ppg is PPG.FROZEN

    @property
    def has_ppg_encoder(self) -> bool:
        """True if a PPG encoder stands beside the trained one."""
        return self.ppg is not PPG.NONE

    def reads_only_tokens(self, section: Any) -> bool:
        """`reads_tokens` for the stage's config section."""
        return self.reads_tokens(section) if callable(self.reads_tokens) else self.reads_tokens

    def load(self) -> Any:
        """The class, imported on first use."""
        return resolve(self.implementation)


@dataclasses.dataclass(frozen=True)
class AutoencoderOptions:
    """Options of masked autoencoding."""

    drop_fraction: float = setting(0.8, number(0.01, 0.99), "share of the patches that the encoder does not see")
    patch: int = setting(20, size(), "length of a patch, for an encoder without tokens of its own", unit="samples")
    decoder_width: int = setting(128, size(), "features of a token in the decoder")
    decoder_depth: int = setting(2, size(), "number of the decoder's blocks")
    decoder_heads: int = setting(4, size(), "attention heads of the decoder")


@dataclasses.dataclass(frozen=True)
class ContrastiveOptions:
    """Options of contrastive pretraining: InfoNCE with a momentum branch, and KoLeo; values of arXiv 2312.05409."""

    positives: str = setting(
        "participant",
        one_of("participant", "segment"),
        "second view: another segment of the same participant, or the same segment",
    )
    temperature: float = setting(0.04, above_zero(), "temperature of the contrastive loss")
    koleo_weight: float = setting(0.1, number(), "weight of the KoLeo regulariser; 0: none")
    momentum: float = setting(
        0.99,
        below_one(),
        "decay per step of the averaged encoder that sees the second view; 0: the encoder itself sees it",
    )
    head: HeadConfig = section(HeadConfig, hidden=1024)


@dataclasses.dataclass(frozen=True)
class SupervisedOptions:
    """Options of supervised training."""

    target: str = setting("hr_bpm", one_of(*LABELS), "label to learn")
    label_fraction: float = setting(1.0, above_zero(1), "share of the labelled training segments, by participant")
    subset: int = setting(0, integer(), "seed of the choice of labelled segments")


def _check_contrast(student: StudentConfig) -> None:
    contrast, bounds = student.contrast, tuple(student.contrast.temperature_bounds)
    key = f"config.student.contrast.temperature_bounds = {bounds!r}"
    if bounds and (len(bounds) != 2 or bounds[0] >= bounds[1]):
        raise UserError(f"{key} must be two numbers, the smaller one first; () for a fixed temperature")
    if bounds and not bounds[0] <= student.temperature <= bounds[1]:
        raise UserError(f"{key} must include the start, config.student.temperature = {student.temperature!r}")
    if contrast.loss == "sigmoid" and student.teacher_to_student_weight != 0.5:
        raise UserError(
            f"config.student.teacher_to_student_weight = {student.teacher_to_student_weight!r} weighs two directions, and "
            "config.student.contrast.loss = 'sigmoid' has none: set it to 0.5"
        )
    for name, other in (("same_person", "person"), ("same_rate", "heart rate")):
        if (size := getattr(contrast, name)) > student.train.batch_size:
            raise UserError(
                f"config.student.contrast.{name} = {size}: a batch has config.student.train.batch_size = "
                f"{student.train.batch_size} minutes, so no other {other} would be in it; make it smaller"
            )
    if contrast.same_person > 1 and contrast.same_rate > 1:
        raise UserError(
            f"config.student.contrast.same_person = {contrast.same_person} and same_rate = {contrast.same_rate}: minutes stand "
            "together by one of them; set the other to 1"
        )
    start = ContrastConfig().bias
    if contrast.loss != "sigmoid" and contrast.bias != start:
        raise UserError(
            f"config.student.contrast.bias = {contrast.bias!r} is for the sigmoid loss alone; set it to {start!r} with "
            f"config.student.contrast.loss = {contrast.loss!r}"
        )


def _check_distillation(student: StudentConfig) -> None:
    _check_contrast(student)
    if not (student.contrastive_weight or student.regression_weight):
        raise UserError(
            "config.student.contrastive_weight and config.student.regression_weight are both 0: nothing would be learned"
            + (" that retrieval compares" if student.token_weight else "")
        )
    if student.head.windows > 1 and not student.contrastive_weight:
        raise UserError(
            f"config.student.head.windows = {student.head.windows} is for the contrastive loss, and "
            "config.student.contrastive_weight is 0: set the windows to 1"
        )
    if not student.contrastive_weight and student.contrast != ContrastConfig():
        raise UserError(
            "config.student.contrast is for the contrastive loss, and config.student.contrastive_weight is 0: leave out its keys"
        )


OBJECTIVES.register(
    "distillation",
    RegisteredObjective(
        "accdistill_jax.objectives.distillation:Distillation",
        ppg=PPG.FROZEN,
        reads_tokens=lambda student: student.head.windows > 1 and not student.regression_weight,
        drops_tokens=True,
        regresses_tokens=True,
        student_head=True,
        contrasts_sensors=True,
        check=_check_distillation,
    ),
    roles=("student",),
)
OBJECTIVES.register(
    "masked",
    RegisteredObjective("accdistill_jax.objectives.masked:MaskedAutoencoding", reads_tokens=True),
    options=AutoencoderOptions,
    section="autoencoder",
)
OBJECTIVES.register(
    "contrastive",
    RegisteredObjective(
        "accdistill_jax.objectives.contrastive:Contrastive",
        reads_tokens=lambda stage: stage.objectives.of(ContrastiveOptions).head.windows > 1,
        own_average=True,
    ),
    options=ContrastiveOptions,
)
OBJECTIVES.register(
    "supervised",
    RegisteredObjective(
        "accdistill_jax.objectives.supervised:Supervised",
        draws_people=lambda student: student.objectives.of(SupervisedOptions).label_fraction < 1,
    ),
    options=SupervisedOptions,
    roles=("student",),
)
OBJECTIVES.register(
    "joint",
    RegisteredObjective(
        "accdistill_jax.objectives.joint:JointTraining",
        ppg=PPG.TRAINED,
        reads_tokens=lambda student: student.head.windows > 1,
        student_head=True,
        contrasts_sensors=True,
        relative_step_time=2.0,
        check=_check_contrast,
    ),
    roles=("student",),
)
