"""Finds the PPG of a minute of acceleration without learning: both signals as curves of when the heart beats.

The acceleration's curve is the flattened envelope of its ballistocardiogram (`ballistocardiogram.envelope`), the PPG's curve its
flattened upstroke. Minutes are compared by the cosine of two curves. The pulse reaches the wrist later than the ballistocardiogram, by a
lag that is fitted once on other people. Our own baseline; the paper has none.
"""

import numpy as np
import scipy.fft
from scipy.ndimage import gaussian_filter1d

from accdistill_jax.evaluation.classical import ballistocardiogram as bcg

MOST_LAG_S = 0.6
_SMOOTH_S = 0.04


def accel_curves(accel: np.ndarray, *, rate_hz: float) -> np.ndarray:
    """Curves of acceleration.

    Args:
        accel: [N, T, 3] float, in g.
        rate_hz: samples per second.

    Returns:
        [N, n] float32 of unit norm, at `ballistocardiogram.ENVELOPE_HZ`.
    """
    curve = bcg.envelope(bcg.spectrum(accel), bcg.BANDS_HZ[-1], samples=accel.shape[1], rate_hz=rate_hz)
    return _unit(bcg.flatten_envelope(curve))


def ppg_curves(ppg: np.ndarray, *, rate_hz: float) -> np.ndarray:
    """Curves of PPG: the speed of its rise, 0 where it falls, mean over channels of equal size.

    Args:
        ppg: [N, T, C] float, systole up, band-passed.
        rate_hz: samples per second.

    Returns:
        [N, n] float32 of unit norm, at `ballistocardiogram.ENVELOPE_HZ`.
    """
    samples = ppg.shape[1]
    length = round(samples / rate_hz * bcg.ENVELOPE_HZ)
    centred = ppg - ppg.mean(axis=1, keepdims=True)
    level = np.sqrt((centred**2).mean(axis=1, keepdims=True))
    mean = (centred / np.where(level > 0, level, 1.0)).mean(axis=2)
    coarse = scipy.fft.irfft(scipy.fft.rfft(mean, axis=1)[:, : length // 2 + 1], length, axis=1)
    rise = np.maximum(np.gradient(coarse, axis=1), 0.0)
    return _unit(bcg.flatten_envelope(rise.astype(np.float32)))


def best_lag(accel: np.ndarray, ppg: np.ndarray) -> int:
    """Steps by which the PPG's curves [N, n] follow those of the acceleration [N, n] of the same minutes: the largest mean product."""
    steps = range(round(MOST_LAG_S * bcg.ENVELOPE_HZ) + 1)
    products = [float((np.roll(accel, step, axis=1) * ppg).sum()) for step in steps]
    return int(np.argmax(products))


def _unit(curve: np.ndarray) -> np.ndarray:
    smooth = gaussian_filter1d(curve, _SMOOTH_S * bcg.ENVELOPE_HZ, axis=1)
    smooth = smooth - smooth.mean(axis=1, keepdims=True)
    return (smooth / np.maximum(np.linalg.norm(smooth, axis=1, keepdims=True), 1e-9)).astype(np.float32)
