"""Contrastive pretraining of one modality with a momentum branch."""

from collections.abc import Mapping

import flax.linen as nn
import jax

from accdistill_jax.inputs.augment import Augmentation
from accdistill_jax.inputs.prepare import InputSettings, prepare
from accdistill_jax.inputs.present import STREAM_SECOND, present, stream
from accdistill_jax.objectives import losses
from accdistill_jax.objectives.base import TARGET, Objective, embedding_health

SECOND = "second_"  # prefix of a batch's names: another segment of the same participant
POSITIVES = ("participant", "segment")


def contrastive(
    encoder: nn.Module,
    head: nn.Module,
    *,
    modality: str,
    inputs: InputSettings,
    augmentations: Mapping[str, Augmentation],
    positives: str,
    temperature: float,
    koleo_weight: float,
    momentum: float,
) -> Objective:
    """InfoNCE between two views of one modality, and KoLeo, which spreads the embeddings out.

    Trained are params["encoder"] and params["head"]. The first view goes through them; the second through their average
    over the steps before (`frozen[TARGET]`, no gradient), or with a momentum of 0 through the parameters themselves. Views
    are augmented in validation too: without augmentation both views of a segment would be the same.

    Args:
        encoder: [batch, time, C] -> [batch, D].
        head: projection head onto the unit sphere.
        modality: "ppg" or "accel".
        inputs: see `InputSettings`.
        augmentations: drawn independently for the two views.
        positives: "segment": both views are of one segment; "participant": the second is of another segment of the same
            participant, which the batch holds under names that begin with `SECOND`.
        temperature: of the softmax.
        koleo_weight: of the KoLeo term on the first view's projections; 0: none.
        momentum: decay of the average per step, 0.99 in the source.

    Source: arXiv 2312.05409 (participant-level positives, momentum branch, InfoNCE with KoLeo); details of the
    combination are our choice.
    """

    def views(frozen, batch, keys, *, training):
        second, other = stream(keys, STREAM_SECOND), batch
        if positives == "participant":
            other = {name.removeprefix(SECOND): value for name, value in batch.items() if name.startswith(SECOND)}
        found = {"first": present(batch, keys, modality, inputs, augmentations, training=True)}
        view = present(other, second, modality, inputs, augmentations, training=True)
        if momentum:
            found["key"] = jax.lax.stop_gradient(project(frozen[TARGET], view)[1])
        else:
            found["second"] = view
        return found

    def project(params, x):
        z = encoder.apply({"params": params["encoder"]}, x)
        return z, head.apply({"params": params["head"]}, z)

    def rows(params, views):
        embedding, query = project(params, views["first"])
        key = views["key"] if momentum else project(params, views["second"])[1]
        return {"query": query, "key": key, "embedding": embedding}

    def reduce(rows, axis_name, *, training):
        nce = losses.info_nce(rows["query"], rows["key"], temperature=temperature, axis_name=axis_name)
        metrics = {"info_nce": nce}
        value = nce
        if koleo_weight:
            metrics["koleo"] = losses.koleo(rows["query"], axis_name=axis_name)
            value = nce + koleo_weight * metrics["koleo"]
        return value, {
            "loss": value,
            **metrics,
            **embedding_health(rows["embedding"], axis_name, spectrum=not training),
        }

    def init(key, batch):
        keys = jax.random.split(key)
        z, variables = encoder.init_with_output(keys[0], prepare(batch, modality, inputs))
        return {"encoder": variables["params"], "head": head.init(keys[1], z)["params"]}

    return Objective(init, views, rows, reduce, momentum)
