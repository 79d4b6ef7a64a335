"""The config of a run: every key with its default, rule, unit and one line of documentation.

`python -m accdistill_jax.config` prints all of it. The defaults are the preset `mean` of the shipped config `distill`; values that
differ in another preset stand in configs/. A section's name in the dotted keys is the field's name; see `tree` for registered sections.
"""

import dataclasses
from typing import Any

from accdistill_jax.config.contrast import ContrastConfig
from accdistill_jax.config.fields import (
    above_zero,
    below_one,
    duration_text,
    each,
    integer,
    number,
    one_of,
    setting,
    size,
    text,
)
from accdistill_jax.config.machine import RuntimeConfig
from accdistill_jax.config.registry import AUGMENTATIONS, ENCODERS, OBJECTIVES, OPTIMIZERS
from accdistill_jax.config.sizes import PAPER_PROBABILITIES, SMALL_EFFICIENTNET, SMALL_OBJECTIVES, SMALL_TRANSFORMER
from accdistill_jax.config.tree import Options, choice, registered, section

STAGES = ("data", "teacher", "student", "evaluation", "report")
SAME_NAMES = ("same person", "different people")
BANDS = ("full", "high", "low+high", "low+high+envelope", "low+high+beat", "full+breathing")
SCALES = ("std", "robust")
WEIGHTINGS = ("equal", "learned")
REPRESENTATIONS = ("mean", "statistics", "autocovariance")
PPG_SOURCE = "ppg"  # item of `teacher.source`: the PPG encoder that the run trains, or that `teacher.path` names
# Augmentations of the first release: their keys decide the result even with a probability of 0, as they did then.
FIRST_AUGMENTATIONS = ("cut_out", "magnitude_warp", "gaussian_noise", "channel_permute", "time_warp")


@dataclasses.dataclass(frozen=True)
class SyntheticConfig:
    """Synthetic recordings, made when `data.stores` is empty."""

    participants: int = setting(400, integer(1, 1_000_000), "synthetic participants")
    segments_per_participant: int = setting(
        60, integer(1, 10_000), "minutes generated for each participant, before selection"
    )
    seed: int = setting(1, integer(), "seed of the generator")
    ppg_channels: int = setting(2, integer(1, 64), "PPG channels")
    generator: int = setting(
        1,
        integer(1, 2),
        "1: fine, quiet sensor on a still wrist; 2: sensors, clocks and wrists as measured",
        added=True,
    )
    shared_motion: float = setting(0.0, number(0, 100), "motion that both sensors record, in pulse heights", added=True)
    clock_error: float = setting(
        1.0,
        number(0, 1),
        "generator 2: error between the sensors' clocks; 1: up to 1 s and 100 ppm; 0: none",
        added=True,
    )
    workers: int = setting(2, integer(1, 1024), "processes that generate", free=True)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Segments to train and test on."""

    stores: tuple[str, ...] = setting(
        (), each(text(empty=False)), "paths or URLs of prepared stores; empty: synthetic data"
    )
    weights: tuple[float, ...] = setting((), each(above_zero()), "share of each store in a batch; empty: by size")
    unseen_stores: tuple[str, ...] = setting(
        (), each(text(empty=False)), "stores used only as further tests, all of their participants", free=True
    )
    same_names: str = setting(
        "same person",
        one_of(*SAME_NAMES),
        "meaning of a participant name that several stores have; the same person must be in the same split everywhere",
        free=True,
    )
    held_out: tuple[str, ...] = setting(
        (),
        each(text(empty=False)),
        "test participants, whatever split the stores give them; the stores' other test participants join the training; "
        "empty: the stores' splits",
        added=True,
    )
    participant_cap: int = setting(0, integer(), "largest number of training segments of one participant; 0: no limit")
    store_cap: int = setting(
        0, integer(), "largest number of training segments of one store, drawn at random; 0: no limit", added=True
    )
    read_concurrency: int = setting(
        128,
        integer(1, 4096),
        "requests at once to an object store; a segment takes two, so 128 at 20 ms each read 3200 segments/s at most",
        free=True,
    )
    cache_mb: int = setting(
        256,
        integer(0, 1_048_576),
        "memory for the shard indices and last segments read from an object store; 0: each batch fetches indices again",
        unit="MB",
        free=True,
    )
    synthetic: SyntheticConfig = section(SyntheticConfig)


@dataclasses.dataclass(frozen=True)
class InputSettings:
    """Preparation of one modality's signal for its encoder; see inputs/prepare.py.

    `bands` and `limit` are our choice. "full" is the signal as it is, presumably the paper's input. Separate channels of
    slow and fast parts keep normalisation from burying a ballistocardiogram of a few mg under a change of posture. The
    envelope of the fast part rises and falls once in a heart beat, as a pulse wave does. "low+high+beat" takes the envelope of
    the band of the ballistocardiogram alone, so that neither the sensor's noise nor sway hides the beats. "full+breathing" adds
    the amplitude of the pulse below about 0.45 Hz, which breathing changes, as a channel of the same weight; meant for PPG.
    """

    bands: str = setting(
        "full",
        one_of(*BANDS),
        "parts of the signal, as channels: full: unchanged; low, high: below and above about 1.5 Hz; envelope: of the fast "
        "part; beat: envelope of 3.5 to 9 Hz; breathing: slow amplitude of the pulse",
    )
    scale: str = setting(
        "std",
        one_of(*SCALES),
        "divisor of a segment: standard deviation, or mean absolute deviation, which bursts of motion move less",
    )
    limit: float = setting(
        0.0, number(), "soft limit of the normalised signal, which tames bursts of motion; 0: none", unit="SD"
    )
    simulated_rate_fraction: float = setting(
        1.0,
        number(0.01, 1),
        "sampling rate of a simulated, slower sensor as a fraction of the store's; 1: the recorded sensor",
        added=True,
    )
    simulated_step: float = setting(
        0.0,
        number(),
        "resolution of a simulated, coarser sensor: values are rounded to its multiples; 0: the recorded sensor",
        unit="unit of the store (g)",
        added=True,
    )
    simulated_axes: int = setting(
        0,
        integer(0, 64),
        "channels of a simulated sensor with fewer axes: the first ones, the others are constant; 0: all",
        added=True,
    )


@dataclasses.dataclass(frozen=True)
class InputsConfig:
    """Preparation of both modalities."""

    ppg: InputSettings = section(InputSettings)
    accel: InputSettings = section(InputSettings, bands="low+high", limit=4.0)

    def of(self, modality: str) -> InputSettings:
        """The settings of "ppg" or "accel"."""
        return {"ppg": self.ppg, "accel": self.accel}[modality]


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """An encoder: one architecture, and the sizes of each."""

    architecture: str = setting(
        "transformer", choice(ENCODERS), "architecture; only the section of the same name has an effect"
    )
    options: Options = registered(ENCODERS, chosen_by="architecture", always_bind=("transformer", "efficientnet"))

    @property
    def chosen(self) -> Any:
        """The options of the chosen architecture."""
        return self.options[ENCODERS.entry(self.architecture).section]


@dataclasses.dataclass(frozen=True)
class HeadConfig:
    """A projection head: a perceptron with one hidden layer. With one window both weightings are the same."""

    hidden: int = setting(256, size(), "width of the hidden layer")
    output: int = setting(128, size(), "width of the projection, of each window")
    windows: int = setting(
        1, integer(1, 4096), "windows of time, each the mean of its tokens; 1: the pooled embedding", added=True
    )
    weighting: str = setting(
        "equal", one_of(*WEIGHTINGS), "weight of a window: equal, or learned as the size of its projection", added=True
    )


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Training of one stage. Durations are "N steps", "N examples" or "N epochs"."""

    duration: str = setting("500 steps", duration_text(), "length of the training")
    batch_size: int = setting(128, integer(2), "global batch size", unit="segments")
    micro_batches: int = setting(
        1,
        integer(1),
        "pieces in which a device works through its part of the batch: less memory, same gradient",
        free=True,
    )
    learning_rate: float = setting(2e-3, above_zero(), "peak learning rate")
    warmup: str = setting("50 steps", duration_text(), "linear warm-up of the learning rate")
    final_learning_rate_fraction: float = setting(
        0.02, number(0, 1), "learning rate at the end of the cosine decay, as a fraction of the peak"
    )
    optimizer: str = setting("adamw", choice(OPTIMIZERS), "optimiser", added=True)
    optimizers: Options = registered(OPTIMIZERS, chosen_by="optimizer")
    weight_decay: float = setting(0.01, number(), "decoupled weight decay")
    b1: float = setting(0.9, below_one(), "Adam's decay of the first moment")
    b2: float = setting(0.98, below_one(), "Adam's decay of the second moment")
    clip_norm: float = setting(1.0, number(), "largest norm of the gradient; 0: not limited")
    ema_decay: float = setting(
        0.0,
        below_one(),
        "decay per step of a moving average of the parameters, which the stage then keeps; 0: no average",
    )
    validate_every: str = setting("200 steps", duration_text(), "interval of validation")
    validation_batches: int = setting(4, integer(), "batches of a validation; 0: no validation")
    checkpoint_every: str = setting("200 steps", duration_text(), "interval of checkpoints")
    checkpoints_kept: int = setting(
        2, integer(1), "newest checkpoints kept; the best by validation loss stays as well", free=True
    )
    log_every: str = setting("10 steps", duration_text(), "interval of logged metrics")
    keep: str = setting(
        "last", one_of("last", "best"), "parameters that the stage exports: the last, or the best by validation loss"
    )


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
    """The PPG teacher."""

    path: str = setting("", text(), "export folder of a teacher trained elsewhere; empty: train one")
    fingerprint: str = setting("", text(), "content hash that the teacher must have; empty: any")
    source: tuple[str, ...] = setting(
        (PPG_SOURCE,),
        each(text(empty=False), at_least=1),
        '"ppg": the PPG encoder of this section; or tables of embeddings by other models (.parquet, .npz, .csv); several: '
        "the mean of their losses",
        added=True,
    )
    source_weights: tuple[float, ...] = setting(
        (), each(above_zero()), "weight of the loss of each source; empty: equal", added=True
    )
    cached_views: int = setting(
        0,
        integer(0, 1024),
        "augmented views of each training segment that the teacher embeds before the student's training, so that a step "
        "reads no PPG; 0: it runs in every step",
        added=True,
    )
    objective: str = setting("masked", choice(OBJECTIVES, "teacher"), "training objective", added=True)
    encoder: EncoderConfig = section(EncoderConfig, transformer=SMALL_TRANSFORMER, efficientnet=SMALL_EFFICIENTNET)
    objectives: Options = registered(OBJECTIVES, role="teacher", chosen_by="objective", defaults=SMALL_OBJECTIVES)
    augment: Options = registered(AUGMENTATIONS, always_bind=FIRST_AUGMENTATIONS)
    train: TrainConfig = section(TrainConfig)

    @property
    def has_encoder(self) -> bool:
        """True if a PPG encoder is one of the teachers."""
        return PPG_SOURCE in self.source

    @property
    def tables(self) -> tuple[str, ...]:
        """The sources that are tables of embeddings."""
        return tuple(source for source in self.source if source != PPG_SOURCE)


@dataclasses.dataclass(frozen=True)
class StudentAugmentConfig:
    """Augmentations in the student's stage, of each modality, and a shift of both."""

    shared_shift: int = setting(
        0,
        integer(0, 65_536),
        "largest random shift of a minute, forwards or backwards, the same for both sensors; 0: none",
        unit="samples",
        added=True,
    )
    accel: Options = registered(AUGMENTATIONS, always_bind=FIRST_AUGMENTATIONS, defaults=PAPER_PROBABILITIES)
    ppg: Options = registered(AUGMENTATIONS, always_bind=FIRST_AUGMENTATIONS, defaults=PAPER_PROBABILITIES)

    def of(self, modality: str) -> Options:
        """The augmentations of "accel" or "ppg"."""
        return {"accel": self.accel, "ppg": self.ppg}[modality]


@dataclasses.dataclass(frozen=True)
class StudentConfig:
    """The accelerometer student."""

    objective: str = setting(
        "distillation",
        choice(OBJECTIVES, "student"),
        "training objective: distillation, or another one as a baseline; joint trains a PPG encoder of the teacher's shape",
        added=True,
    )
    encoder: EncoderConfig = section(
        EncoderConfig,
        transformer=SMALL_TRANSFORMER | {"width": 64, "mlp": 128, "tokenizer": ((8, 32), (32, 64)), "output": 128},
        efficientnet=SMALL_EFFICIENTNET,
    )
    init: str = setting(
        "",
        text(),
        "export folder of a student to start from (fine-tuning): its encoder, and its heads if they fit; empty: fresh "
        "parameters",
        added=True,
    )
    head: HeadConfig = section(HeadConfig)
    augment: StudentAugmentConfig = section(StudentAugmentConfig)
    drop_fraction: float = setting(
        0.0, number(0, 0.95), "fraction of the tokens that a Transformer student leaves out in training", added=True
    )
    temperature: float = setting(0.07, above_zero(), "temperature of the contrastive loss")
    teacher_to_student_weight: float = setting(
        0.5, number(0, 1), "weight of the loss from teacher to student (lambda); the other direction gets the rest"
    )
    contrast: ContrastConfig = section(ContrastConfig)
    contrastive_weight: float = setting(1.0, number(), "weight of distillation's contrastive loss", added=True)
    regression_weight: float = setting(
        0.0, number(), "weight of distillation's regression onto the teacher's embedding", added=True
    )
    regression: str = setting(
        "cosine", one_of("cosine", "mse"), "loss of the regression that `regression_weight` weights", added=True
    )
    token_weight: float = setting(
        0.0, number(), "weight of distillation's regression onto the teacher's tokens of the same time", added=True
    )
    token_schedule: str = setting(
        "constant",
        one_of("constant", "linear"),
        "course of `token_weight` in training: constant, or a linear fall to 0 at the end",
        added=True,
    )
    objectives: Options = registered(OBJECTIVES, role="student", chosen_by="objective", defaults=SMALL_OBJECTIVES)
    train: TrainConfig = section(TrainConfig, duration="700 steps")


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation of the encoders; none of these keys changes what is trained."""

    batch_size: int = setting(250, integer(1), "segments embedded at once", free=True)
    train_segments: int = setting(
        6000, integer(10), "largest number of training segments that probes are fitted to", free=True
    )
    pool_sizes: tuple[int, ...] = setting(
        (100, 1000), each(integer(2)), "segments that retrieval chooses from, besides all test segments", free=True
    )
    bootstrap_draws: int = setting(100, integer(2), "resamplings of participants for confidence intervals", free=True)
    examples: int = setting(4, integer(), "segments shown in the report", free=True)
    representation: str = setting(
        "mean",
        one_of(*REPRESENTATIONS),
        "embedding that probes see; mean: the pooled embedding; statistics: mean, SD and mean absolute difference of the tokens; "
        "autocovariance: statistics, and the tokens' autocovariance at lags of 0 to 3 s",
        free=True,
        added=True,
    )


@dataclasses.dataclass(frozen=True)
class Config:
    """The config of a run."""

    seed: int = setting(0, integer(), "seed of parameters, order of segments, augmentation and resampling")
    stages: tuple[str, ...] = setting(
        STAGES,
        each(one_of(*STAGES), at_least=1),
        "stages to run, in this order; a finished stage is recognised and skipped",
        free=True,
    )
    data: DataConfig = section(DataConfig)
    inputs: InputsConfig = section(InputsConfig)
    teacher: TeacherConfig = section(TeacherConfig)
    student: StudentConfig = section(StudentConfig)
    evaluation: EvaluationConfig = section(EvaluationConfig)
    runtime: RuntimeConfig = section(RuntimeConfig)

    def stage(self, name: str) -> TeacherConfig | StudentConfig:
        """The section of a training stage, "teacher" or "student"."""
        return {"teacher": self.teacher, "student": self.student}[name]
