"""FLOP of the matrix products of a training step: a multiplication and an addition are 2 operations.

Modules count their matrix products themselves (`models.protocol.Encoder.flops`). Elementwise operations (normalisation,
activations, softmax, augmentation) do not count, as usual for a share of the peak. The backward pass of trained parts counts twice
the forward pass: once for the gradient of the weights, once for the gradient of their input.
"""

TRAINED = 3  # forward pass, and twice its FLOP for the backward pass


def logits_flops(*, batch: int, global_batch: int, width: int) -> int:
    """FLOP of the logits of a contrastive loss, forward pass, both directions.

    Args:
        batch: rows of a device.
        global_batch: rows over all devices.
        width: width of the projections.
    """
    return 2 * 2 * batch * global_batch * width
