"""int16 quantisation of signals, with one scale and offset per segment and channel."""

from typing import NamedTuple

import numpy as np

from accdistill_jax.errors import UserError

LARGEST = 32767
_SMALLEST_SCALE = np.float32(1e-20)
_BLOCK = 16
_FOLDS = (64, 60, 48, 32, 16, 8, 4, 2, 1)


class Quantised(NamedTuple):
    """Values [segments, samples, channels] int16; scale and offset [segments, channels] float32, in the signal's unit."""

    values: np.ndarray
    scale: np.ndarray
    offset: np.ndarray


def quantise(signal: np.ndarray, *, name: str) -> Quantised:
    """Quantises each segment and channel over its own range.

    The offset is the middle of the range, and the scale is half the range divided by 32767. So `offset + scale * values` differs
    from the signal by at most scale / 2 (and float32 rounding). A constant channel gets values 0 and a tiny positive scale.

    Args:
        signal: [segments, samples, channels] float, any unit, finite.
        name: name of the signal, for messages.

    Raises:
        UserError: a value is NaN or infinite; the message names the first segment and channel.
    """
    signal = np.ascontiguousarray(signal, dtype=np.float32)
    segments, samples, channels = signal.shape
    values = np.empty(signal.shape, np.int16)
    scale = np.empty((segments, channels), np.float32)
    offset = np.empty((segments, channels), np.float32)
    fold = next(fold for fold in _FOLDS if samples % fold == 0)
    for start in range(0, segments, _BLOCK):
        block = slice(start, min(start + _BLOCK, segments))
        count = block.stop - block.start
        # Long rows first and the short channel axis last keep the reduction vectorised.
        rows = signal[block].reshape(count, samples // fold, fold * channels)
        low = rows.min(axis=1).reshape(count, fold, channels).min(axis=1)
        high = rows.max(axis=1).reshape(count, fold, channels).max(axis=1)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            segment, channel = np.argwhere(~(np.isfinite(low) & np.isfinite(high)))[0]
            raise UserError(
                f"{name}: segment {start + segment}, channel {channel} contains NaN or an infinite value; "
                "reject segments with gaps before storing them"
            )
        offset[block] = low / 2 + high / 2
        reach = np.maximum(high - offset[block], offset[block] - low)
        scale[block] = np.maximum(reach / LARGEST, _SMALLEST_SCALE)
        offsets = np.tile(offset[block], (1, fold))[:, None, :]
        scales = np.tile(scale[block], (1, fold))[:, None, :]
        scaled = rows - offsets
        scaled /= scales
        np.rint(scaled, out=scaled)
        np.clip(scaled, -LARGEST, LARGEST, out=scaled)
        values[block] = scaled.reshape(count, samples, channels)
    return Quantised(values, scale, offset)


def dequantise(values: np.ndarray, scale: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Converts back to the signal, [..., samples, channels] float32; scale and offset are [..., channels]."""
    return values * scale[..., None, :] + offset[..., None, :]
