"""Trained encoders: a frozen PPG teacher, an accelerometer student."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from accdistill_jax.config import convert
from accdistill_jax.config.registry import OBJECTIVES
from accdistill_jax.config.schema import EncoderConfig, HeadConfig, InputSettings
from accdistill_jax.models.autoencoder import MaskedAutoencoder
from accdistill_jax.models.build import build_encoder, build_head
from accdistill_jax.models.protocol import Encoded
from accdistill_jax.objectives.base import Branch, Objective
from accdistill_jax.objectives.registered import UNNAMED


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A frozen PPG encoder.

    Attributes:
        branch: encoder, [batch, time, C] -> [batch, D], and how the PPG is presented to it.
        frozen: {"params", "mean" [D], "std" [D]}: parameters, and statistics of the embedding over training segments.
        fingerprint: content hash of everything in the export.
        autoencoder: the masked autoencoder it comes from and its parameters, or None.
        data: content hashes of the stores it was trained on, joined as in `Run.data_fingerprint`.
        trained_on: the same and those of their parts, for `data.store.trained_on.people_seen`; "" if unknown.
    """

    branch: Branch
    frozen: dict[str, Any]
    fingerprint: str
    autoencoder: tuple[MaskedAutoencoder, Any] | None
    data: str
    trained_on: str = ""


@dataclasses.dataclass(frozen=True)
class Student:
    """A trained accelerometer encoder.

    Attributes:
        branch: encoder, [batch, time, C] -> [batch, D], how the acceleration is presented to it, and the projection head of
            student and teacher alike; without one, retrieval compares otherwise or not at all.
        params: the export's arrays: "encoder" and what its objective trained besides.
        fingerprint: content hash of the parameters.
        objective: the class that trained it.
        ppg: the PPG encoder that was trained with it, or None.
        origin: facts about the export that its training started from: "fingerprint"; "data", content hashes of the
            stores that this export has learned from, joined by "+"; and "trained_on", as of a `Teacher`. {} for a fresh start.
    """

    branch: Branch
    params: dict[str, Any]
    fingerprint: str
    objective: type[Objective]
    ppg: Branch | None
    origin: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def initial(self, batch: Mapping[str, Any]) -> Any:
        """Untrained parameters of the encoder's shape, for comparison; drawn by a fixed key of their own."""
        x = self.branch.prepare(batch)
        return jax.device_get(jax.jit(self.branch.encoder.init)(jax.random.key(20), x)["params"])

    @property
    def reads_embedding(self) -> bool:
        """True if retrieval compares the pooled embeddings, so that `read_teacher` needs no tokens."""
        return self.branch.head is None or self.branch.head.windows == 1

    def represent(self, params: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Outputs of the student for a batch of the pipeline; see `Objective.represent`."""
        return self.objective.represent(self.branch, params, batch)

    def read_teacher(self, params: Mapping[str, Any], frozen: Mapping[str, Any], encoded: Encoded) -> jax.Array:
        """The quantity of the frozen teacher that retrieval compares; see `Objective.read_teacher`."""
        return self.objective.read_teacher(self.branch, params, frozen, encoded)

    def project_teacher(self, params: Mapping[str, Any], standard: jax.Array) -> jax.Array | None:
        """Projects the result of `read_teacher`; see `Objective.project_teacher`."""
        return self.objective.project_teacher(self.branch, params, standard)

    def represent_ppg(self, params: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """As `represent`, of the PPG by the encoder that was trained with the student (`ppg` is not None)."""
        if self.ppg is None:
            raise ValueError("no PPG encoder was trained with this student")
        return self.objective.represent_ppg(self.ppg, params, batch)


def student_of(params: Any, meta: Mapping[str, Any], *, dtype) -> Student:
    """A student from an export's parameters and metadata.

    Args:
        params: the export's arrays.
        meta: the export's metadata.
        dtype: compute dtype.
    """
    head = (
        build_head(convert.parse_section(HeadConfig, meta["head"], at="student.head"))
        if "teacher_head" in params
        else None
    )

    def branch(modality: str, encoder: Any, signal: Mapping[str, Any]) -> Branch:
        module = build_encoder(convert.parse_section(EncoderConfig, encoder, at="student.encoder"), dtype=dtype)
        inputs = convert.parse_section(InputSettings, signal["inputs"], at=f"inputs.{modality}")
        return Branch(modality, module, inputs, head, representation=meta.get("representation", "mean"))

    return Student(
        branch("accel", meta["encoder"], meta["signal"]),
        params,
        meta["fingerprint"],
        OBJECTIVES.get(meta.get("objective", UNNAMED)).load(),
        branch("ppg", meta["ppg_encoder"], meta["ppg_signal"]) if "ppg_encoder" in meta else None,
        meta.get("initial", {}),
    )
