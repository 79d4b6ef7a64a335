"""Trained encoders: a frozen PPG teacher, an accelerometer student."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import ml_collections

from accdistill_jax.inputs.prepare import InputSettings, prepare
from accdistill_jax.models.autoencoder import MaskedAutoencoder
from accdistill_jax.models.build import build_encoder, build_head
from accdistill_jax.models.heads import LinearHead


class Teacher(NamedTuple):
    """A frozen PPG encoder.

    Attributes:
        encoder: module, [batch, time, C] -> [batch, D].
        frozen: {"params", "mean" [D], "std" [D]}: parameters, and statistics of the embedding over training segments.
        inputs: how the PPG is presented to it.
        fingerprint: content hash of everything in the export.
        autoencoder: the masked autoencoder it comes from and its parameters, or None.
        data: content hashes of the stores it was trained on, joined as in `Run.data_fingerprint`.
    """

    encoder: nn.Module
    frozen: dict[str, Any]
    inputs: InputSettings
    fingerprint: str
    autoencoder: tuple[MaskedAutoencoder, Any] | None
    data: str


class Student(NamedTuple):
    """A trained accelerometer encoder.

    Attributes:
        encoder: module, [batch, time, C] -> [batch, D].
        params: {"encoder"} and what its objective trained besides: {"head", "teacher_head"}, {"regression_head"},
            {"teacher"}, {"label_head", "label_mean", "label_std"}.
        inputs: how the acceleration is presented to it.
        fingerprint: content hash of the parameters.
        objective: how it was trained.
        head: projection head of student and teacher alike, or None where retrieval compares otherwise or not at all.
        ppg: the PPG encoder that was trained with it and how the PPG is presented to that, or None.
    """

    encoder: nn.Module
    params: dict[str, Any]
    inputs: InputSettings
    fingerprint: str
    objective: str
    head: nn.Module | None
    ppg: tuple[nn.Module, InputSettings] | None

    def initial(self, batch: dict) -> Any:
        """Untrained parameters of the encoder's shape, for comparison; drawn by a fixed key of their own."""
        x = prepare(batch, "accel", self.inputs)
        return jax.device_get(jax.jit(self.encoder.init)(jax.random.key(20), x)["params"])

    def represent(self, params: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Outputs of the student for a batch of the pipeline.

        Returns:
            embedding [b, D]; projection [b, P] of unit norm, where it was trained with a PPG encoder; prediction [b], in the
            label's unit, where it was trained on a label.
        """
        z = self.encoder.apply({"params": params["encoder"]}, prepare(batch, "accel", self.inputs))
        found = {"embedding": z}
        if self.head is not None:
            found["projection"] = self.head.apply({"params": params["head"]}, z)
        elif "regression_head" in params:
            found["projection"] = unit(
                _linear(params["regression_head"]).apply({"params": params["regression_head"]}, z)
            )
        elif "label_head" in params:
            standard = LinearHead(1).apply({"params": params["label_head"]}, z)[:, 0]
            found["prediction"] = params["label_mean"] + params["label_std"] * standard
        return found

    def project_teacher(self, params: Mapping[str, Any], standard: jax.Array) -> jax.Array | None:
        """Projects the frozen teacher's standardised embedding [b, D] for comparison with the student: [b, P] of unit norm, or None."""
        if self.objective != "distillation":
            return None
        return unit(standard) if self.head is None else self.head.apply({"params": params["teacher_head"]}, standard)

    def represent_ppg(self, params: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """As `represent`, of the PPG by the encoder that was trained with the student (`ppg` is not None)."""
        encoder, inputs = self.ppg
        z = encoder.apply({"params": params["teacher"]}, prepare(batch, "ppg", inputs))
        return {"embedding": z, "projection": self.head.apply({"params": params["teacher_head"]}, z)}


def unit(z: jax.Array) -> jax.Array:
    """Rows [b, D] at unit norm."""
    return z * jax.lax.rsqrt((z * z).sum(axis=-1, keepdims=True) + 1e-12)


def _linear(params: Mapping[str, Any]) -> LinearHead:
    return LinearHead(params["output"]["bias"].shape[-1])


def student_of(params: Any, meta: Mapping[str, Any], *, dtype) -> Student:
    """A student from an export's parameters and metadata."""
    ppg = None
    if "ppg_encoder" in meta:
        inputs = InputSettings(**meta["ppg_signal"]["inputs"])
        ppg = (build_encoder(ml_collections.ConfigDict(meta["ppg_encoder"]), dtype=dtype), inputs)
    return Student(
        build_encoder(ml_collections.ConfigDict(meta["encoder"]), dtype=dtype),
        params,
        InputSettings(**meta["signal"]["inputs"]),
        meta["fingerprint"],
        meta.get("objective", "distillation"),
        build_head(ml_collections.ConfigDict(meta["head"])) if "teacher_head" in params else None,
        ppg,
    )
