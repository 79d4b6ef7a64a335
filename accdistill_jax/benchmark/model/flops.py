"""Matrix products of a training step, counted from the config: 2 operations per multiplication and addition.

What is elementwise (normalisation, activations, softmax, augmentation) is left out, as usual for a share of peak. Of trained
parts the backward pass counts twice the forward pass: once for the gradient of the weights, once for that of their input.
"""

import math
from typing import Any

from accdistill_jax.models.autoencoder import MaskedAutoencoder, kept_count
from accdistill_jax.models.efficientnet import EfficientNetEncoder, Stage
from accdistill_jax.models.heads import ProjectionHead
from accdistill_jax.models.transformer import TransformerEncoder

TRAINED = 3  # forward, and twice that backward


def blocks(*, tokens: int, width: int, mlp: int, depth: int) -> int:
    """Transformer blocks on a segment's tokens: queries, keys, values and output, MLP, attention."""
    dense = 2 * width * (4 * width + 2 * mlp)
    attention = 4 * tokens * width
    return depth * tokens * (dense + attention)


def transformer(encoder: TransformerEncoder, *, samples: int, channels: int, tokens: int | None = None) -> int:
    """A forward pass of one segment.

    Args:
        encoder: the module.
        samples, channels: of the encoder's input.
        tokens: tokens it runs on; None is all, and includes the output layer.
    """
    values, tokenizer = encoder.patch * channels, 0
    for span, width in encoder.tokenizer:
        tokenizer += 2 * values * width
        values = encoder.patch // span * width
    run_on = samples // encoder.patch if tokens is None else tokens
    total = run_on * (tokenizer + 2 * values * encoder.width)
    total += blocks(tokens=run_on, width=encoder.width, mlp=encoder.mlp, depth=encoder.depth)
    return total + (2 * encoder.width * encoder.output if tokens is None else 0)


def efficientnet(encoder: EfficientNetEncoder, *, samples: int, channels: int) -> int:
    """A forward pass of one segment."""
    width, kernel, stride = encoder.stem
    length = math.ceil(samples / stride)
    total = 2 * length * kernel * channels * width
    for stage in (Stage(*stage) for stage in encoder.stages):
        for block in range(stage.depth):
            inside, squeezed = width * stage.expansion, max(width // 4, 4)
            total += 2 * length * width * inside + 4 * inside * squeezed
            length = math.ceil(length / stage.stride) if block == 0 else length
            total += 2 * length * inside * (stage.kernel + stage.width)
            width = stage.width
    return total + 2 * length * width * encoder.head + 2 * encoder.head * encoder.output


def encoder_flops(encoder: Any, *, samples: int, channels: int) -> int:
    """A forward pass of one segment through an encoder of either architecture."""
    count = transformer if isinstance(encoder, TransformerEncoder) else efficientnet
    return count(encoder, samples=samples, channels=channels)


def student_flops(encoder: Any, *, samples: int, channels: int, drop_fraction: float) -> int:
    """A forward pass of one segment in training, a Transformer's without the tokens that are dropped."""
    if not drop_fraction:
        return encoder_flops(encoder, samples=samples, channels=channels)
    kept = kept_count(samples // encoder.patch, drop_fraction)
    return transformer(encoder, samples=samples, channels=channels, tokens=kept) + 2 * encoder.width * encoder.output


def autoencoder_flops(model: MaskedAutoencoder, *, samples: int, channels: int) -> int:
    """A forward pass of one segment: encoder (a Transformer only on what it keeps) and decoder."""
    encoder, width, patches = model.encoder, model.decoder_width, samples // model.patch
    if isinstance(encoder, TransformerEncoder):
        total, features = transformer(encoder, samples=samples, channels=channels, tokens=model.keep), encoder.width
    else:
        total, features = efficientnet(encoder, samples=samples, channels=channels), encoder.head
        length = samples
        for stride in (encoder.stem[2], *(stage[2] for stage in encoder.stages)):
            length = math.ceil(length / stride)
        total += 2 * patches * length * features  # features averaged per patch
    total += 2 * model.keep * features * width
    total += blocks(tokens=patches, width=width, mlp=4 * width, depth=model.decoder_depth)
    return total + 2 * (patches - model.keep) * width * model.patch * channels


def head_flops(head: ProjectionHead, *, features: int) -> int:
    """A projection head on one embedding."""
    return 2 * head.hidden * (features + head.output)


def logits_flops(*, batch: int, global_batch: int, width: int) -> int:
    """Both directions of a contrastive loss over the global batch, forward, for one device's rows of it."""
    return 2 * 2 * batch * global_batch * width
