"""A contender: masked autoencoding whose encoder runs on the kept tokens only, or on all of them."""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from accdistill_jax.benchmark.contenders.training import Training
from accdistill_jax.benchmark.contest import Skipped
from accdistill_jax.benchmark.model import program
from accdistill_jax.data.synthetic.waveforms import SAMPLES
from accdistill_jax.inputs.augment import augmentations
from accdistill_jax.inputs.prepare import InputSettings
from accdistill_jax.models.autoencoder import MaskedAutoencoder
from accdistill_jax.models.build import build_autoencoder, build_encoder, compute_dtype
from accdistill_jax.models.transformer import TransformerEncoder
from accdistill_jax.objectives import masked_autoencoding
from accdistill_jax.runtime import host_memory
from accdistill_jax.runtime.parallel import Parallel


class OnAllTokens(TransformerEncoder):
    """The encoder with dropped patches set to zero instead of left out, as in SimMIM (Xie et al. 2022)."""

    def tokens(self, x: jax.Array, kept: jax.Array | None = None) -> jax.Array:
        """As `TransformerEncoder.tokens`, at the cost of all tokens."""
        if kept is None:
            return super().tokens(x)
        seen = jnp.zeros((x.shape[0], x.shape[1] // self.patch)).at[jnp.arange(len(kept))[:, None], kept].set(1.0)
        every = super().tokens(x * jnp.repeat(seen, self.patch, axis=1)[:, :, None])
        return jnp.take_along_axis(every, kept[:, :, None], axis=1)


def prepare(order: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """`order` has config, batch (per device), all_tokens."""
    host_memory.keep_freed()  # as the command does
    config = ml_collections.FrozenConfigDict(order["config"])
    dtype = compute_dtype(config.runtime.compute_dtype)
    encoder = build_encoder(config.teacher.encoder, dtype=dtype)
    if not isinstance(encoder, TransformerEncoder):
        raise Skipped("only a Transformer leaves tokens out")
    model = build_autoencoder(encoder, config.teacher.autoencoder, samples=SAMPLES, dtype=dtype)
    work = program.describe(config, "teacher")
    if order["all_tokens"]:
        work = work._replace(objective=objective(config, on_all_tokens(model)))
    training = Training(work, batch=order["batch"], parallel=Parallel(config.runtime.mapping))
    training.run(2)
    return {"kept": model.keep, "tokens": SAMPLES // model.patch, "devices": jax.device_count()}, training.run


def on_all_tokens(model: MaskedAutoencoder) -> MaskedAutoencoder:
    """The same autoencoder, its encoder run on every token."""
    fields = {
        name: getattr(model.encoder, name)
        for name in model.encoder.__dataclass_fields__
        if name not in ("parent", "name")
    }
    return model.clone(encoder=OnAllTokens(**fields))


def objective(config: Any, model: MaskedAutoencoder) -> Any:
    """Masked autoencoding of `model` as the teacher's stage trains it."""
    return masked_autoencoding(
        model,
        modality="ppg",
        inputs=InputSettings(**config.inputs.ppg),
        augmentations=augmentations(config.teacher.augment),
    )


if __name__ == "__main__":
    from accdistill_jax.benchmark.contest import serve

    serve(prepare)
