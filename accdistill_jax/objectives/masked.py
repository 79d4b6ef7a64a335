"""Masked autoencoding of one modality."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp

from accdistill_jax.config.schema import StudentConfig, TeacherConfig
from accdistill_jax.errors import UserError
from accdistill_jax.inputs import streams
from accdistill_jax.models.autoencoder import MaskedAutoencoder, dropped_patches, random_order
from accdistill_jax.models.build import build_autoencoder
from accdistill_jax.models.protocol import Module
from accdistill_jax.objectives import losses
from accdistill_jax.objectives.base import (
    Batch,
    Branch,
    Metrics,
    Objective,
    ObjectiveParts,
    StepFlops,
    embedding_health,
)
from accdistill_jax.objectives.registered import AutoencoderOptions


@dataclasses.dataclass(frozen=True)
class MaskedAutoencoding(Objective):
    """Mean squared error on the dropped patches of one modality.

    The parameters are the autoencoder's: "encoder" and "decoder".

    Attributes:
        branch: the encoder that is pretrained; its augmentations apply to input and target alike.
        model: the autoencoder around that encoder.

    Source: arXiv 2412.11276 (masked autoencoder as the PPG teacher); He et al. 2022.
    """

    branch: Branch
    model: MaskedAutoencoder

    @classmethod
    def from_config(cls, section: TeacherConfig | StudentConfig, parts: ObjectiveParts) -> "MaskedAutoencoding":
        """See `Objective.from_config`; reads `AutoencoderOptions`."""
        encoder, options = parts.branch.encoder, section.objectives.of(AutoencoderOptions)
        _check_decoder(options, encoder.positions)
        model = build_autoencoder(encoder, options, samples=parts.samples, dtype=parts.dtype)
        return cls(parts.branch, model)

    def init(self, key: jax.Array, batch: Batch) -> Any:
        """See `Objective.init`."""
        x = self.branch.prepare(batch)
        order = jnp.tile(jnp.arange(x.shape[1] // self.model.patch, dtype=jnp.int32), (x.shape[0], 1))
        model: Module = self.model
        return model.init(key, x, order)["params"]

    def inputs(self, frozen: Any, batch: Batch, keys: jax.Array, *, training: bool) -> dict[str, jax.Array]:
        """See `Objective.inputs`: the signal, and the order in which its patches are kept and dropped."""
        x = self.branch.present(batch, keys, training=training)
        order = random_order(streams.stream(keys, streams.MASK), x.shape[1] // self.model.patch)
        return {"signal": x, "order": order}

    def rows(self, params: Any, inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """See `Objective.rows`."""
        x, order = inputs["signal"], inputs["order"]
        chex.assert_rank([x, order], [3, 2])
        model: Module = self.model
        prediction, embedding = model.apply({"params": params}, x, order)
        target = dropped_patches(x, order, patch=self.model.patch, keep=self.model.keep)
        return {"error": losses.masked_reconstruction(prediction, target), "embedding": embedding}

    def reduce(
        self, rows: Mapping[str, jax.Array], axis_name: str | None, *, training: bool
    ) -> tuple[jax.Array, Metrics]:
        """See `Objective.reduce`."""
        chex.assert_rank([rows["error"], rows["embedding"]], [1, 2])
        value = jnp.mean(rows["error"])
        return value, {"loss": value, **embedding_health(rows["embedding"], axis_name, spectrum=not training)}

    def flops(self, *, samples: int, channels: Mapping[str, int], cached: bool) -> StepFlops:
        """See `Objective.flops`."""
        trained = self.model.flops(samples=samples, channels=channels[self.branch.modality])
        return StepFlops(trained, 0, 0, self.branch.encoder.embedding_width)

    def exported(self, params: Any, frozen: Any) -> dict[str, Any]:
        """See `Objective.exported`; the decoder is of no use to a student."""
        return {name: value for name, value in params.items() if name != "decoder"}


def _check_decoder(options: AutoencoderOptions, positions: str) -> None:
    """Raises UserError for a decoder whose heads do not divide its width, or have an odd width with rotary codes."""
    width, rest = divmod(options.decoder_width, options.decoder_heads)
    what = (
        f"autoencoder.decoder_width = {options.decoder_width} over autoencoder.decoder_heads = {options.decoder_heads}"
    )
    if rest:
        raise UserError(f"{what}: the width must be a multiple of the heads")
    if "relative" in positions and width % 2:
        raise UserError(
            f"{what}: relative positions turn pairs of a head's features, so each head needs an even number"
        )
