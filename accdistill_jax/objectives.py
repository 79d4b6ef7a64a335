"""Ways of training: what is computed from each segment, and the loss over the global batch.

An objective has three parts, so that one step can work through a batch in pieces and still see all of it in its loss:

    inputs(frozen, batch, keys, training=...)   what never has a gradient: normalisation, augmentation, the frozen teacher
    rows(params, inputs)                        what is trained, each segment by itself
    reduce(rows, axis_name, training=...)       (loss, metrics) over the global batch

`params` are differentiated, `frozen` (a teacher) never is; `batch` is this device's part as it comes from the pipeline;
`keys` are this step's random keys, one per segment; `axis_name` is the mapped axis for collectives (None: one device).
Metrics are scalars, averaged over devices.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from accdistill_jax import losses
from accdistill_jax.augment import Augmentation, augment
from accdistill_jax.inputs import InputSettings, prepare, row_by_row
from accdistill_jax.models.autoencoder import MaskedAutoencoder, dropped_patches, kept_count, random_order

STREAM_MASK = 0
STREAMS = {"ppg": 1, "accel": 2}
STREAM_TOKENS = 3
TEACHER = "teacher"  # of a batch: the teacher's embedding, standardised, where it was computed before


class Objective(NamedTuple):
    """What the training loop needs to know of a way of training; see the module's docstring.

    Attributes:
        init: `init(key, batch) -> params` for a batch of the pipeline's form.
        inputs: `inputs(frozen, batch, keys, *, training) -> tree of [b, ...]`; augments only in training.
        rows: `rows(params, inputs) -> tree of [b, ...]`, differentiable.
        reduce: `reduce(rows, axis_name, *, training) -> (loss [], metrics)`.
    """

    init: Callable[[jax.Array, Mapping[str, jax.Array]], Any]
    inputs: Callable[..., Any]
    rows: Callable[[Any, Any], Any]
    reduce: Callable[..., tuple[jax.Array, dict[str, jax.Array]]]

    def loss(self, params, frozen, batch, keys, axis_name):
        """The training loss of this device's part of the batch: (loss [] float32, metrics)."""
        rows = self.rows(params, self.inputs(frozen, batch, keys, training=True))
        return self.reduce(rows, axis_name, training=True)

    def evaluate(self, params, frozen, batch, keys, axis_name):
        """The same without augmentation, for validation."""
        rows = self.rows(params, self.inputs(frozen, batch, keys, training=False))
        return self.reduce(rows, axis_name, training=False)


def stream(keys: jax.Array, number: int) -> jax.Array:
    """Independent keys for one use of randomness: [batch] keys -> [batch] keys."""
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def band_groups(settings: InputSettings) -> int:
    return 2 if settings.bands == "low+high" else 1


def present(
    batch: Mapping[str, jax.Array],
    keys: jax.Array,
    modality: str,
    settings: InputSettings,
    augmentations: Mapping[str, Augmentation],
    *,
    training: bool,
) -> jax.Array:
    """A modality as its encoder gets it, augmented in training: [b, time, C] float32, alike for any split of the batch."""
    own = {name: value for name, value in batch.items() if name.split("_")[0] == modality}

    def of(rows):
        keys, own = rows
        x = prepare(own, modality, settings)
        return augment(keys, x, augmentations, groups=band_groups(settings)) if training else x

    return row_by_row(of, (stream(keys, STREAMS[modality]), own))


def embedding_health(z: jax.Array, axis_name: str | None, *, spectrum: bool) -> dict[str, jax.Array]:
    """Learning-health metrics of embeddings [b, D] over the global batch: spread, and effective rank if asked for."""
    z = jax.lax.stop_gradient(z.astype(jnp.float32))

    def mean(rows: jax.Array) -> jax.Array:
        own = jnp.mean(rows, axis=0)
        return own if axis_name is None else jax.lax.pmean(own, axis_name)

    health = {"embedding_std": jnp.mean(jnp.sqrt(mean(jnp.square(z - mean(z)[None]))))}
    if spectrum:  # all rows in one place and an eigendecomposition: not in every training step
        rows = z if axis_name is None else jax.lax.all_gather(z, axis_name, axis=0, tiled=True)
        health["effective_rank"] = losses.effective_rank(rows)
    return health


def masked_autoencoding(
    model: MaskedAutoencoder,
    *,
    modality: str,
    inputs: InputSettings,
    augmentations: Mapping[str, Augmentation],
) -> Objective:
    """Mean squared error on the dropped patches of one modality.

    Args:
        model: the autoencoder; what is kept afterwards is params["encoder"].
        modality: "ppg" or "accel".
        inputs: see `InputSettings`.
        augmentations: applied to input and target alike; {} for none.

    Source: arXiv 2412.11276 (masked autoencoder as the PPG teacher); He et al. 2022.
    """

    patch, keep = model.patch, model.keep

    def masked(frozen, batch, keys, *, training):
        x = present(batch, keys, modality, inputs, augmentations, training=training)
        return {"signal": x, "order": random_order(stream(keys, STREAM_MASK), x.shape[1] // patch)}

    def rows(params, masked):
        x, order = masked["signal"], masked["order"]
        prediction, embedding = model.apply({"params": params}, x, order)
        error = losses.masked_reconstruction(prediction, dropped_patches(x, order, patch=patch, keep=keep))
        return {"error": error, "embedding": embedding}

    def reduce(rows, axis_name, *, training):
        value = jnp.mean(rows["error"])
        return value, {"loss": value, **embedding_health(rows["embedding"], axis_name, spectrum=not training)}

    def init(key, batch):
        x = prepare(batch, modality, inputs)
        order = jnp.tile(jnp.arange(x.shape[1] // patch, dtype=jnp.int32), (x.shape[0], 1))
        return model.init(key, x, order)["params"]

    return Objective(init, masked, rows, reduce)


def standard_embedding(teacher: nn.Module, frozen: Any, ppg: jax.Array) -> jax.Array:
    """A frozen teacher's embedding of presented PPG [b, time, C], standardised per dimension: [b, D] float32, no gradient."""
    z = teacher.apply({"params": frozen["params"]}, ppg)
    return jax.lax.stop_gradient((z - frozen["mean"][None]) / frozen["std"][None])


def distillation(
    student: nn.Module,
    teacher: nn.Module,
    student_head: nn.Module,
    teacher_head: nn.Module,
    *,
    student_inputs: InputSettings,
    teacher_inputs: InputSettings,
    augmentations: Mapping[str, Mapping[str, Augmentation]],
    temperature: float,
    teacher_to_student_weight: float,
    drop_fraction: float = 0.0,
) -> Objective:
    """Both directions of InfoNCE between the student's and a frozen teacher's embedding of the same minute.

    Trained are params["encoder"] (the student), params["head"] and params["teacher_head"]; `frozen` is the teacher:
    {"params", "mean" [D], "std" [D]}, whose embedding is standardised per dimension before its head. A batch that holds
    that embedding, `TEACHER` [b, D] float32, needs no PPG, and the teacher is not run.

    Args:
        student, teacher: encoders, [batch, time, C] -> [batch, D].
        student_head, teacher_head: projection heads onto the unit sphere.
        student_inputs, teacher_inputs: see `InputSettings`.
        augmentations: {"accel": specs, "ppg": specs}; drawn independently for the two.
        temperature: of both softmaxes.
        teacher_to_student_weight: lambda of `lambda * L(t->s) + (1 - lambda) * L(s->t)`.
        drop_fraction: share of its tokens that a Transformer student does without in training, drawn anew for every
            segment and step; 0: none.

    Source: arXiv 2412.11276 (cross-modal distillation); Li et al. 2023, "Scaling language-image pre-training via
    masking" (dropping tokens).
    """

    def views(frozen, batch, keys, *, training):
        found = {"accel": present(batch, keys, "accel", student_inputs, augmentations["accel"], training=training)}
        if TEACHER in batch:
            found["teacher"] = batch[TEACHER]
        else:
            ppg = present(batch, keys, "ppg", teacher_inputs, augmentations["ppg"], training=training)
            found["teacher"] = standard_embedding(teacher, frozen, ppg)
        if drop_fraction and training:
            tokens = found["accel"].shape[1] // student.patch
            order = random_order(stream(keys, STREAM_TOKENS), tokens)
            found["kept"] = order[:, : kept_count(tokens, drop_fraction)]
        return found

    def rows(params, views):
        kept = (views["kept"],) if "kept" in views else ()
        embedding = student.apply({"params": params["encoder"]}, views["accel"], *kept)
        return {
            "teacher": teacher_head.apply({"params": params["teacher_head"]}, views["teacher"]),
            "student": student_head.apply({"params": params["head"]}, embedding),
            "embedding": embedding,
        }

    def reduce(rows, axis_name, *, training):
        t, s = rows["teacher"], rows["student"]
        t_to_s = losses.info_nce(t, s, temperature=temperature, axis_name=axis_name)
        s_to_t = losses.info_nce(s, t, temperature=temperature, axis_name=axis_name)
        value = teacher_to_student_weight * t_to_s + (1.0 - teacher_to_student_weight) * s_to_t
        metrics = {"loss": value, "teacher_to_student": t_to_s, "student_to_teacher": s_to_t}
        metrics["temperature"] = jnp.float32(temperature)
        return value, {**metrics, **embedding_health(rows["embedding"], axis_name, spectrum=not training)}

    def init(key, batch):
        accel = prepare(batch, "accel", student_inputs)
        keys = jax.random.split(key, 3)
        encoder = student.init(keys[0], accel)["params"]
        embedding = student.apply({"params": encoder}, accel)
        if TEACHER in batch:
            width = batch[TEACHER].shape[-1]
        else:
            ppg = prepare(batch, "ppg", teacher_inputs)
            width = jax.eval_shape(lambda: teacher.init_with_output(keys[0], ppg)[0]).shape[-1]
        return {
            "encoder": encoder,
            "head": student_head.init(keys[1], embedding)["params"],
            "teacher_head": teacher_head.init(keys[2], jnp.zeros((1, width)))["params"],
        }

    return Objective(init, views, rows, reduce)
