"""Contender: masked autoencoding with an encoder that runs on the kept tokens only, or on all tokens."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from accdistill_jax.benchmark.contenders.training import Training
from accdistill_jax.benchmark.contest import Skipped
from accdistill_jax.benchmark.model import program
from accdistill_jax.config.convert import parse_section
from accdistill_jax.config.schema import Config
from accdistill_jax.data.synthetic.waveforms import SAMPLES
from accdistill_jax.models.autoencoder import MaskedAutoencoder
from accdistill_jax.models.transformer import TransformerEncoder
from accdistill_jax.objectives.masked import MaskedAutoencoding
from accdistill_jax.runtime import host_memory
from accdistill_jax.runtime.parallel import Parallel


class OnAllTokens(TransformerEncoder):
    """An encoder that sets dropped patches to zero instead of skipping them.

    Source: SimMIM (Xie et al. 2022).
    """

    def tokens(self, x: jax.Array, kept: jax.Array | None = None) -> jax.Array:
        """As `TransformerEncoder.tokens`, but computes all tokens."""
        if kept is None:
            return super().tokens(x)
        seen = jnp.zeros((x.shape[0], x.shape[1] // self.patch)).at[jnp.arange(len(kept))[:, None], kept].set(1.0)
        every = super().tokens(x * jnp.repeat(seen, self.patch, axis=1)[:, :, None])
        return jnp.take_along_axis(every, kept[:, :, None], axis=1)


def prepare_contender(order: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Prepares the training.

    Args:
        order: "config"; "batch", segments per device; "all_tokens", True to run the encoder on all tokens.
    """
    host_memory.keep_freed()  # as the command does
    config = parse_section(Config, order["config"])
    work = program.describe_work(config, "teacher")
    objective = work.objective
    assert isinstance(objective, MaskedAutoencoding)
    if objective.branch.encoder.patch is None:
        raise Skipped("the encoder cannot skip tokens")
    if order["all_tokens"]:
        work = work._replace(objective=dataclasses.replace(objective, model=on_all_tokens(objective.model)))
    training = Training(work, batch=order["batch"], parallel=Parallel(config.runtime.mapping))
    training.run(2)
    model = objective.model
    return {"kept": model.keep, "tokens": SAMPLES // model.patch, "devices": jax.device_count()}, training.run


def on_all_tokens(model: MaskedAutoencoder) -> MaskedAutoencoder:
    """The same autoencoder with an encoder that runs on all tokens."""
    encoder = model.encoder
    assert isinstance(encoder, TransformerEncoder)
    fields = {name: getattr(encoder, name) for name in encoder.__dataclass_fields__ if name not in ("parent", "name")}
    return model.clone(encoder=OnAllTokens(**fields))


if __name__ == "__main__":
    from accdistill_jax.benchmark.contest import serve

    serve(prepare_contender)
