"""Matrix products of a training step: 2 operations per multiplication and addition.

Modules count their own (`models.protocol.Encoder.flops`). Elementwise operations (normalisation, activations, softmax,
augmentation) are left out, as usual for a share of peak. The backward pass of trained parts counts twice the forward pass:
once for the gradient of the weights, once for the gradient of their input.
"""

TRAINED = 3  # forward, and twice that backward


def logits_flops(*, batch: int, global_batch: int, width: int) -> int:
    """Both directions of a contrastive loss over the global batch, forward, for one device's rows of it."""
    return 2 * 2 * batch * global_batch * width
