"""The protocol of training objectives, and what they share.

An objective splits its loss into three parts, so that a step can work through a batch in pieces while the loss still sees the
whole global batch:

    inputs(frozen, batch, keys, training=...)   without gradient: normalisation, augmentation, the frozen teacher
    rows(params, inputs)                        with gradient, each segment by itself
    reduce(rows, axis_name, training=...)       (loss, metrics) over the global batch

`params` are differentiated, `frozen` (a teacher) never is; `batch` is this device's part as it comes from the pipeline;
`keys` are this step's random keys, one per segment; `axis_name` is the mapped axis for collectives (None: one device).
Metrics are scalars, averaged over devices.
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from accdistill_jax.config.schema import InputSettings
from accdistill_jax.errors import UserError
from accdistill_jax.inputs.prepare import prepare_inputs
from accdistill_jax.inputs.present import present, shifted
from accdistill_jax.inputs.registered import Augmentation
from accdistill_jax.models.protocol import Encoded, Encoder, Head
from accdistill_jax.models.windows import OF_TOKENS, window_means
from accdistill_jax.objectives import losses
from accdistill_jax.objectives.teacher_reading import EMBEDDING_ALONE, TeacherReading, standardised

TARGET = "target"  # key of `frozen`: the average of the parameters, for an objective with a momentum branch
PROGRESS = "progress"  # key of `frozen`: finished share of the training [] float32, from 0 below 1; 1 in validation
SECOND = "second_"  # prefix of a batch's names: another segment of the same participant
LABEL = "label"  # key of a batch: [b] float32, in the target's unit, all known

Batch = Mapping[str, Any]  # of arrays, on the host or a device
Metrics = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Branch:
    """The way of one modality through an encoder.

    Attributes:
        modality: "ppg" or "accel".
        encoder: see `models.protocol.Encoder`.
        inputs: how the modality is presented to the encoder.
        head: on the pooled embedding or on windows of tokens, or None.
        augmentations: by name, for training.
        shift: largest random shift of a segment in training, in samples, drawn alike for both modalities; 0: none.
        representation: the embedding that evaluation sees, one of `schema.REPRESENTATIONS`.
    """

    modality: str
    encoder: Encoder
    inputs: InputSettings
    head: Head | None = None
    augmentations: Mapping[str, Augmentation] = dataclasses.field(default_factory=dict)
    shift: int = 0
    representation: str = "mean"

    @property
    def required_head(self) -> Head:
        """The head.

        Raises:
            ValueError: there is none.
        """
        if self.head is None:
            raise ValueError(f"the {self.modality} branch has no head")
        return self.head

    def prepare(self, batch: Batch) -> jax.Array:
        """The encoder's input [b, time, C] float32, not augmented."""
        return prepare_inputs(batch, self.modality, self.inputs)

    def present(self, batch: Batch, keys: jax.Array, *, training: bool) -> jax.Array:
        """The encoder's input [b, time, C] float32, shifted and augmented in training; the same for any split of the batch."""
        if self.shift and training:
            batch = shifted(batch, keys, self.modality, self.shift)
        return present(batch, keys, self.modality, self.inputs, self.augmentations, training=training)

    def encode(self, params: Any, x: jax.Array, kept: jax.Array | None = None) -> Encoded:
        """Tokens and pooled embedding of presented segments.

        Args:
            params: the encoder's parameters.
            x: [b, time, C] float32.
            kept: [b, K] int32, the only tokens to run on, for an encoder that can leave out tokens; None: all.

        Returns:
            Tokens [b, T', width] and embedding [b, D].
        """
        if kept is None:
            return self.encoder.apply({"params": params}, x, method="encode")
        return self.encoder.apply({"params": params}, x, kept, patch=self.encoder.patch, method="encode_kept")

    def represent(self, encoded: Encoded) -> jax.Array:
        """The embedding [b, D] that evaluation, the Python API and reports see of a trained encoder; decided here alone."""
        if self.representation == "mean":
            return encoded.embedding
        return OF_TOKENS[self.representation](encoded.tokens)

    def embed(self, params: Any, x: jax.Array) -> jax.Array:
        """The pooled embedding [b, D] of presented segments [b, time, C]; `params` are the encoder's."""
        return self.encoder.apply({"params": params}, x)

    def pooled(self, encoded: Encoded, kept: jax.Array | None = None, *, count: int | None = None) -> jax.Array:
        """The head's input.

        Args:
            encoded: the encoder's output.
            kept: as in `encode`; tokens that were left out are absent from the windows.
            count: tokens of a whole segment, with `kept`.

        Returns:
            The embedding [b, D], or the means of tokens in windows [b, windows, width]; zeros for a window without tokens.

        Raises:
            UserError: more windows than tokens.
        """
        windows, tokens = self.required_head.windows, count or encoded.tokens.shape[1]
        if windows == 1:
            return encoded.embedding
        if windows > tokens:
            raise UserError(
                f"head.windows = {windows}: the {self.modality} encoder has {tokens} tokens in a segment; choose at most "
                f"{tokens} windows, or shorter tokens"
            )
        return window_means(encoded.tokens, windows, kept=kept, count=count).mean

    def project(self, params: Any, pooled: jax.Array) -> jax.Array:
        """The head's output [b, P] for its input; see `pooled`."""
        return self.required_head.apply({"params": params}, pooled)

    def init(self, keys: jax.Array, batch: Batch) -> tuple[Any, Any]:
        """Initial parameters of encoder and head.

        Args:
            keys: [2] random keys.
            batch: of the pipeline's form.
        """
        encoded, variables = self.encoder.init_with_output(keys[0], self.prepare(batch), method="encode")
        return variables["params"], self.required_head.init(keys[1], self.pooled(encoded))["params"]


class ObjectiveParts(NamedTuple):
    """Parts that a stage hands to an objective's `from_config`.

    Attributes:
        branch: the encoder that the stage exports.
        ppg: the PPG encoder that it learns from or is trained with, or None.
        samples: samples of a segment.
        dtype: compute dtype.
        tables: further frozen teachers, whose embeddings are given.
        weights: weight of the loss of each frozen teacher, that of `ppg` first; empty: equal.
    """

    branch: Branch
    ppg: Branch | None
    samples: int
    dtype: jnp.dtype
    tables: tuple[Branch, ...] = ()
    weights: tuple[float, ...] = ()

    @property
    def by_teacher(self) -> tuple["ObjectiveParts", ...]:
        """The parts for each frozen teacher alone, as `ppg`."""
        teachers = (*((self.ppg,) if self.ppg is not None else ()), *self.tables)
        return tuple(self._replace(ppg=teacher, tables=(), weights=()) for teacher in teachers)


class StepFlops(NamedTuple):
    """Matrix products of an objective, and the sizes that its collectives depend on.

    Attributes:
        trained, frozen: operations of a forward pass of one segment, in the parts with and without gradient.
        projection: width that a contrastive loss compares; 0: no such loss.
        embedding: width of the embedding whose spread is a metric.
    """

    trained: int
    frozen: int
    projection: int
    embedding: int


@dataclasses.dataclass(frozen=True)
class Segments:
    """Batches of segments in the pipeline's order, with both modalities.

    Attributes:
        same_person: segments of one participant that follow one another; 1: all segments in random order.
        same_rate: segments of about the same heart rate that follow one another; 1: all segments in random order.
    """

    same_person: int = 1
    same_rate: int = 1


@dataclasses.dataclass(frozen=True)
class ParticipantPairs:
    """Batches of segments of one modality, each with another segment of its participant under names that begin with `SECOND`."""

    modality: str


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Batches of acceleration with a label, under `LABEL`.

    Attributes:
        target: column of the segment tables.
        fraction: of the labelled training segments; participants are kept together.
        subset: seed of the choice.
    """

    target: str
    fraction: float
    subset: int


class Objective(abc.ABC):
    """A way of training an encoder; a frozen dataclass. See the module's docstring."""

    @classmethod
    @abc.abstractmethod
    def from_config(cls, section: Any, parts: ObjectiveParts) -> "Objective":
        """Builds the objective.

        Args:
            section: the stage's config section, "teacher" or "student".
            parts: what the stage provides.
        """

    @property
    def momentum(self) -> float:
        """Decay per step of an average of the parameters that `frozen` then holds as `TARGET`; 0: none."""
        return 0.0

    @property
    def teacher_reading(self) -> TeacherReading:
        """The quantities of a frozen teacher that it reads; the stage caches them if `teacher.cached_views` asks for it."""
        return EMBEDDING_ALONE

    @property
    def batches(self) -> Segments | ParticipantPairs | Labelled:
        """The batches that it trains on."""
        return Segments()

    @abc.abstractmethod
    def init(self, key: jax.Array, batch: Batch) -> Any:
        """Initial parameters for a batch of the pipeline's form; those of the exported encoder are under "encoder"."""

    @abc.abstractmethod
    def inputs(self, frozen: Any, batch: Batch, keys: jax.Array, *, training: bool) -> dict[str, jax.Array]:
        """Everything without gradient: a tree of [b, ...] arrays; augments only in training."""

    @abc.abstractmethod
    def rows(self, params: Any, inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """The differentiable part of each segment: a tree of [b, ...] arrays."""

    @abc.abstractmethod
    def reduce(
        self, rows: Mapping[str, jax.Array], axis_name: str | None, *, training: bool
    ) -> tuple[jax.Array, Metrics]:
        """The loss [] float32 and the metrics over the global batch."""

    def loss(self, params: Any, frozen: Any, batch: Batch, keys: jax.Array, axis_name: str | None):
        """The training loss of this device's part of the batch: (loss [] float32, metrics)."""
        rows = self.rows(params, self.inputs(frozen, batch, keys, training=True))
        return self.reduce(rows, axis_name, training=True)

    def evaluate(self, params: Any, frozen: Any, batch: Batch, keys: jax.Array, axis_name: str | None):
        """The same without augmentation, for validation."""
        rows = self.rows(params, self.inputs(frozen, batch, keys, training=False))
        return self.reduce(rows, axis_name, training=False)

    def constrained(self, params: Any) -> Any:
        """The parameters after an update, moved back into their bounds; the same on every device."""
        return params

    def exported(self, params: Any, frozen: Any) -> dict[str, Any]:
        """The arrays of a student's export, from the trained parameters and the frozen arrays."""
        return dict(params)

    def flops(self, *, samples: int, channels: Mapping[str, int], cached: bool) -> StepFlops | None:
        """The work of a step, or None where it is not counted.

        Args:
            samples: samples of a segment.
            channels: channels of the encoder's input, by modality.
            cached: True if the frozen teacher's embedding is read instead of computed.
        """
        return None

    @classmethod
    def represent(cls, branch: Branch, params: Mapping[str, Any], batch: Batch) -> dict[str, jax.Array]:
        """Everything that evaluation sees of a trained encoder: `Branch.represent` and the objective's `readouts`.

        Args:
            branch: as an export describes it: encoder, inputs, and the head of `project` or None.
            params: the export's arrays.
            batch: of the pipeline's form.

        Returns:
            embedding [b, D]; where the objective has them, projection [b, P] of unit norm, which retrieval compares, and
            prediction [b] in the label's unit.
        """
        encoded = branch.encode(params["encoder"], branch.prepare(batch))
        return {"embedding": branch.represent(encoded)} | cls.readouts(branch, params, encoded)

    @classmethod
    def readouts(cls, branch: Branch, params: Mapping[str, Any], encoded: Encoded) -> dict[str, jax.Array]:
        """The outputs of the objective's heads, "projection" and "prediction" of `represent`."""
        return {}

    @classmethod
    def read_teacher(
        cls, branch: Branch, params: Mapping[str, Any], frozen: Mapping[str, Any], encoded: Encoded
    ) -> jax.Array:
        """The quantity of a frozen teacher that `project_teacher` takes, standardised.

        Args:
            branch: as in `represent`.
            params: as in `represent`.
            frozen: the teacher.
            encoded: the teacher's output.

        Returns:
            The embedding [b, D], or windows of tokens [b, windows, D'].
        """
        return standardised(encoded.embedding, frozen["mean"], frozen["std"])

    @classmethod
    def project_teacher(cls, branch: Branch, params: Mapping[str, Any], standard: jax.Array) -> jax.Array | None:
        """The frozen teacher's side of retrieval.

        Args:
            branch: as in `represent`.
            params: as in `represent`.
            standard: [b, ...], the result of `read_teacher`.

        Returns:
            [b, P] of unit norm, comparable with the student's projection; None where the student has no frozen teacher.
        """
        return None

    @classmethod
    def represent_ppg(cls, branch: Branch, params: Mapping[str, Any], batch: Batch) -> dict[str, jax.Array]:
        """As `represent`, of the PPG by the encoder that was trained with the student."""
        raise ValueError(f"{cls.__name__} trains no PPG encoder")


def embedding_health(z: jax.Array, axis_name: str | None, *, spectrum: bool) -> Metrics:
    """Learning-health metrics of embeddings [b, D] over the global batch: spread, and effective rank if asked for."""
    z = jax.lax.stop_gradient(z.astype(jnp.float32))

    def mean(rows: jax.Array) -> jax.Array:
        local = jnp.mean(rows, axis=0)
        return local if axis_name is None else jax.lax.pmean(local, axis_name)

    health = {"embedding_std": jnp.mean(jnp.sqrt(mean(jnp.square(z - mean(z)[None]))))}
    if spectrum:  # all rows in one place and an eigendecomposition: not in every training step
        rows = z if axis_name is None else jax.lax.all_gather(z, axis_name, axis=0, tiled=True)
        health["effective_rank"] = losses.effective_rank(rows)
    return health
