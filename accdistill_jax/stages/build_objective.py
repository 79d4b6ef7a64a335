"""Builds the objective of a stage: looks it up by its config section's name, hands it the encoders."""

from collections.abc import Sequence

from accdistill_jax.config.registry import OBJECTIVES
from accdistill_jax.config.schema import Config, EncoderConfig, StudentConfig, TeacherConfig
from accdistill_jax.config.tree import Options
from accdistill_jax.data.store.store import Store
from accdistill_jax.errors import UserError
from accdistill_jax.inputs.augment import augmentations
from accdistill_jax.models.build import build_encoder, compute_dtype, encoder_of_tokens
from accdistill_jax.objectives.base import Branch, Objective, ObjectiveParts
from accdistill_jax.objectives.distillation import Distillation
from accdistill_jax.objectives.registered import PPG, RegisteredObjective
from accdistill_jax.objectives.several_teachers import SeveralTeachers


def objective_of(section: TeacherConfig | StudentConfig) -> RegisteredObjective:
    """The registered objective of a "teacher" or "student" config section."""
    return OBJECTIVES.get(section.objective)


def needs_teacher(config: Config) -> bool:
    """True if the student of a config learns from a frozen teacher."""
    return objective_of(config.student).needs_teacher


def reads_ppg(config: Config) -> str:
    """The part of a run that reads PPG, in words; "" if its stages read acceleration alone."""
    if {"student", "evaluation"}.intersection(config.stages) and student_reads_ppg(config):
        return f"the student's objective {config.student.objective!r}"
    return "the stage teacher" if "teacher" in config.stages and config.teacher.has_encoder else ""


def student_reads_ppg(config: Config) -> bool:
    """True if the student's objective has a PPG encoder beside the student."""
    ppg = objective_of(config.student).ppg
    return ppg is PPG.TRAINED or (ppg is PPG.FROZEN and config.teacher.has_encoder)


def check_ppg(config: Config, stores: Sequence[Store]) -> None:
    """Raises UserError if a part of the run reads PPG, but a store has none."""
    reader = reads_ppg(config)
    for store in stores if reader else ():
        if "ppg" not in store.signals:
            alone = [name for name in OBJECTIVES.names("student") if OBJECTIVES.get(name).ppg is PPG.NONE]
            raise UserError(
                f"config.data.stores: {store.path} has no PPG, but {reader} reads it; give stores with PPG, or train on acceleration "
                f"alone: --config.student.objective={alone[0]} (or {', '.join(alone[1:])}) "
                "--config.stages=\"('data', 'student', 'evaluation', 'report')\""
            )


def trained_encoder(section: TeacherConfig | StudentConfig) -> EncoderConfig:
    """The `encoder` section of the encoder that a stage trains and exports."""
    return _encoder_for(section, section.encoder)


def trained_ppg_encoder(config: Config) -> EncoderConfig:
    """The `encoder` section of the PPG encoder that is trained together with the student."""
    return _encoder_for(config.student, config.teacher.encoder)


def _encoder_for(section: TeacherConfig | StudentConfig, encoder: EncoderConfig) -> EncoderConfig:
    return encoder_of_tokens(encoder) if objective_of(section).reads_only_tokens(section) else encoder


def build_objective(
    config: Config, role: str, *, samples: int, teacher: Branch | None = None, tables: Sequence[Branch] = ()
) -> Objective:
    """The objective of a stage.

    Args:
        config: the run's config.
        role: the stage, "teacher" or "student".
        samples: samples of a segment.
        teacher: the frozen PPG encoder, for an objective that learns from one.
        tables: frozen teachers whose embeddings are given, for such an objective.

    Raises:
        UserError: the objective's options do not suit the segments' length, or it cannot learn from several teachers.
    """
    section, registered = config.stage(role), objective_of(config.stage(role))
    dtype = compute_dtype(config.runtime.compute_dtype)

    shift = section.augment.shared_shift if isinstance(section, StudentConfig) else 0
    if shift >= samples:
        raise UserError(
            f"config.student.augment.shared_shift = {shift}: a segment has {samples} samples; shift it by half a token or so"
        )

    def branch(modality: str, encoder: EncoderConfig, specs: Options) -> Branch:
        module = build_encoder(encoder, dtype=dtype, rematerialise=config.runtime.rematerialise)
        return Branch(modality, module, config.inputs.of(modality), augmentations=augmentations(specs), shift=shift)

    if isinstance(section, TeacherConfig):
        trained, ppg = branch("ppg", trained_encoder(section), section.augment), None
    else:
        trained, ppg = branch("accel", trained_encoder(section), section.augment.accel), None
        if registered.ppg is PPG.FROZEN:
            frozen = list(tables)
            if teacher is not None:
                specs = augmentations(section.augment.ppg)
                frozen.insert(0, Branch("ppg", teacher.encoder, teacher.inputs, augmentations=specs, shift=shift))
            if not frozen:
                raise ValueError("the student's objective needs a teacher")
            ppg, *others = frozen
            if others:
                if not issubclass(registered.load(), Distillation):
                    raise UserError(
                        f"config.teacher.source names {len(frozen)} teachers, and config.student.objective = {section.objective!r} "
                        "learns from one: name one, or set the objective to distillation"
                    )
                parts = ObjectiveParts(trained, ppg, samples, dtype, tuple(others), config.teacher.source_weights)
                return SeveralTeachers.from_config(section, parts)
        elif registered.ppg is PPG.TRAINED:
            ppg = branch("ppg", trained_ppg_encoder(config), section.augment.ppg)
    return registered.load().from_config(section, ObjectiveParts(trained, ppg, samples, dtype))
