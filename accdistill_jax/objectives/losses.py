"""Losses: arrays in, scalars out; float32."""

import jax
import jax.numpy as jnp

from accdistill_jax.models.ops import looked_up
from accdistill_jax.runtime.platform import platform


def _gathered(rows: jax.Array, axis_name: str | None) -> tuple[jax.Array | int, jax.Array]:
    """The number of this device's first row in the global batch, and all rows of the global batch."""
    if axis_name is None:
        return 0, rows
    first = jax.lax.axis_index(axis_name) * rows.shape[0]
    return first, jax.lax.all_gather(rows, axis_name, axis=0, tiled=True)


def info_nce(
    query: jax.Array, key: jax.Array, *, temperature: float | jax.Array, axis_name: str | None = None
) -> jax.Array:
    """Cross-entropy of picking each query's key among all keys of the global batch.

    A segment that the batch holds twice counts as two; batches of a training have such copies where they are larger than the store, and
    few at the border of two epochs.

    Args:
        query: [b, D] float32 of unit norm, this device's rows.
        key: [b, D] float32 of unit norm, row i belongs to query i.
        temperature: softmax temperature; a number, or a traced [] array.
        axis_name: mapped axis whose devices share their keys; None: one device.

    Returns:
        [] float32, the mean over this device's rows; the mean over devices is the global loss.

    Source: van den Oord et al. 2018; both directions as in arXiv 2412.11276.
    """
    first, key = _gathered(key, axis_name)
    logits = jnp.matmul(query, key.T, preferred_element_type=jnp.float32) / temperature
    matching = first + jnp.arange(query.shape[0])
    if platform() == "tpu":  # a gather's gradient is a scatter, which takes a TPU one element at a time
        picked = jnp.sum(jnp.where(matching[:, None] == jnp.arange(logits.shape[1])[None], logits, 0.0), axis=1)
    else:
        picked = jnp.take_along_axis(logits, matching[:, None], axis=1)[:, 0]
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - picked)


def pairwise_sigmoid(
    query: jax.Array,
    key: jax.Array,
    *,
    temperature: float | jax.Array,
    bias: float | jax.Array,
    axis_name: str | None = None,
) -> jax.Array:
    """Binary cross-entropy of each pair of a query and a key of the global batch: a match or not.

    The loss is the same with queries and keys exchanged.

    Args:
        query: [b, D] float32 of unit norm, this device's rows.
        key: [b, D] float32 of unit norm, row i belongs to query i.
        temperature: divisor of the similarities, in place of the source's factor.
        bias: added to all logits.
        axis_name: mapped axis whose devices share their keys; None: one device.

    Returns:
        [] float32: the sum over all keys, and the mean over this device's queries; the mean over devices is the global loss.

    Source: Zhai et al. 2023, "Sigmoid loss for language image pre-training", arXiv 2303.15343.
    """
    first, key = _gathered(key, axis_name)
    logits = jnp.matmul(query, key.T, preferred_element_type=jnp.float32) / temperature + bias
    matching = jnp.arange(key.shape[0])[None] == first + jnp.arange(query.shape[0])[:, None]
    return jnp.mean(jnp.sum(jax.nn.softplus(jnp.where(matching, -logits, logits)), axis=1))


def masked_reconstruction(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Mean squared error over each segment's dropped patches, both [batch, dropped, patch * channels] -> [batch] float32."""
    return jnp.mean(jnp.square(prediction.astype(jnp.float32) - target.astype(jnp.float32)), axis=(1, 2))


def effective_rank(z: jax.Array) -> jax.Array:
    """Smooth effective rank of embeddings [N, D]: exp of the entropy of the normalised covariance spectrum.

    Cheaper than the singular-value form of the evaluation, for use during training.
    """
    centred = z - jnp.mean(z, axis=0, keepdims=True)
    spectrum = jnp.maximum(jnp.linalg.eigvalsh(centred.T @ centred), 0.0)
    p = spectrum / (jnp.sum(spectrum) + 1e-12)
    return jnp.exp(-jnp.sum(jnp.where(p > 0, p * jnp.log(p + 1e-12), 0.0)))


def regression(prediction: jax.Array, target: jax.Array, *, kind: str) -> jax.Array:
    """Distance of each predicted vector from its target, both [batch, D] -> [batch] float32.

    Args:
        prediction: [batch, D].
        target: [batch, D].
        kind: "mse", the mean over dimensions of the squared error, or "cosine", 1 - the cosine of the angle.
    """
    prediction, target = prediction.astype(jnp.float32), target.astype(jnp.float32)
    if kind == "mse":
        return jnp.mean(jnp.square(prediction - target), axis=-1)
    product = jnp.sum(prediction * target, axis=-1)
    squares = jnp.sum(jnp.square(prediction), axis=-1) * jnp.sum(jnp.square(target), axis=-1)
    return 1.0 - product * jax.lax.rsqrt(squares + 1e-12)


def mean_square_where(prediction: jax.Array, target: jax.Array, counts: jax.Array) -> jax.Array:
    """Mean squared error over the tokens that count, both [b, tokens, D] -> [b] float32; counts [b, tokens] bool, not all False."""
    squared = jnp.mean(jnp.square(prediction.astype(jnp.float32) - target.astype(jnp.float32)), axis=-1)
    return jnp.sum(jnp.where(counts, squared, 0.0), axis=1) / jnp.sum(counts, axis=1)


def huber(error: jax.Array) -> jax.Array:
    """Half the square up to 1, linear beyond: elementwise, float32. Source: Huber 1964."""
    size = jnp.abs(error.astype(jnp.float32))
    return jnp.where(size <= 1.0, 0.5 * jnp.square(size), size - 0.5)


def koleo(z: jax.Array, *, axis_name: str | None = None) -> jax.Array:
    """Kozachenko-Leonenko regulariser: minus the mean log distance to the nearest other vector of the global batch.

    Args:
        z: [b, D] float32 of unit norm, this device's rows.
        axis_name: mapped axis whose devices share their vectors; None: one device.

    Returns:
        [] float32, the mean over this device's rows; smaller for vectors that are spread out.

    Source: Sablayrolles et al. 2019, "Spreading vectors for similarity search".
    """
    first, others = _gathered(z, axis_name)
    rows = first + jnp.arange(z.shape[0])
    similarity = jax.lax.stop_gradient(jnp.matmul(z, others.T, preferred_element_type=jnp.float32))
    similarity = jnp.where(jnp.arange(others.shape[0])[None] == rows[:, None], -jnp.inf, similarity)
    nearest = looked_up(others, jnp.argmax(similarity, axis=1))
    squared = jnp.sum(jnp.square(z - nearest), axis=1)
    return -jnp.mean(0.5 * jnp.log(squared + 1e-8))
