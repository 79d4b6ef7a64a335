"""Losses: arrays in, scalars out; float32."""

import jax
import jax.numpy as jnp


def info_nce(query: jax.Array, key: jax.Array, *, temperature, axis_name: str | None = None) -> jax.Array:
    """Cross-entropy of finding each query's own key among all keys of the global batch.

    Args:
        query: [b, D] float32 of unit norm, this device's rows.
        key: [b, D] float32 of unit norm, row i belongs to query i.
        temperature: softmax temperature.
        axis_name: mapped axis over whose devices keys are gathered; None is one device.

    Returns:
        [] float32, the mean over this device's rows; the mean over devices is the global loss.

    Source: van den Oord et al. 2018; both directions as in arXiv 2412.11276.
    """
    first = 0
    if axis_name is not None:
        first = jax.lax.axis_index(axis_name) * query.shape[0]
        key = jax.lax.all_gather(key, axis_name, axis=0, tiled=True)
    logits = jnp.matmul(query, key.T, preferred_element_type=jnp.float32) / temperature
    own = first + jnp.arange(query.shape[0])
    picked = jnp.take_along_axis(logits, own[:, None], axis=1)[:, 0]
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - picked)


def masked_reconstruction(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Mean squared error over each segment's dropped patches, both [batch, dropped, patch * channels] -> [batch] float32."""
    return jnp.mean(jnp.square(prediction.astype(jnp.float32) - target.astype(jnp.float32)), axis=(1, 2))


def effective_rank(z: jax.Array) -> jax.Array:
    """Smooth effective rank of embeddings [N, D]: exp of the entropy of the normalised covariance spectrum.

    A cheap stand-in during training for the singular-value form used in the evaluation.
    """
    centred = z - jnp.mean(z, axis=0, keepdims=True)
    spectrum = jnp.maximum(jnp.linalg.eigvalsh(centred.T @ centred), 0.0)
    p = spectrum / (jnp.sum(spectrum) + 1e-12)
    return jnp.exp(-jnp.sum(jnp.where(p > 0, p * jnp.log(p + 1e-12), 0.0)))
