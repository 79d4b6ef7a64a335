"""Finds the PPG of a minute of acceleration without learning: both signals as curves of when the heart beats.

The acceleration's curve is the envelope of its ballistocardiogram: the band of each axis, scaled by its median and clipped, then the
length of the vector of the axes. The PPG's curve is the speed of its rise. Both keep the range of the pulse rate, at a steady level.
Minutes are compared by the cosine of two curves. The pulse reaches the wrist later than the ballistocardiogram, by a lag that is fitted
once on other people. Our own baseline; the paper has none.
"""

import numpy as np
import scipy.fft
from scipy.ndimage import uniform_filter1d

from accdistill_jax.evaluation.classical import ballistocardiogram as bcg

MOST_LAG_S = 0.6
BEAT_HZ = (3.0, 10.0)
"""Band of the ballistocardiogram. Of 3-8, 3-10, 4-12 and 5-14 Hz it found most minutes, on EmbracePlus and on synthetic wrists."""
_PULSE_HZ = (0.6, 3.0)
_CLIP_SD = 4.0
_LEVEL_S = 5.0


def accel_curves(accel: np.ndarray, *, rate_hz: float) -> np.ndarray:
    """Curves of acceleration.

    Args:
        accel: [N, T, 3] float, in g.
        rate_hz: samples per second.

    Returns:
        [N, n] float32 of unit norm, at `ballistocardiogram.ENVELOPE_HZ`; zeros for a signal without change.
    """
    samples = accel.shape[1]
    passed = bcg.spectrum(accel) * bcg.band_gain(samples, rate_hz, *BEAT_HZ)
    beats = scipy.fft.irfft(passed, samples, axis=-1)
    deviation = 1.4826 * np.median(np.abs(beats), axis=-1, keepdims=True) + bcg.FLOOR_G
    clipped = np.clip(beats / deviation, -_CLIP_SD, _CLIP_SD)
    return _pulse_curve(np.sqrt((clipped**2).sum(axis=1)), rate_hz=rate_hz)


def ppg_curves(ppg: np.ndarray, *, rate_hz: float) -> np.ndarray:
    """Curves of PPG: the speed of its rise, 0 where it falls, mean over channels of equal size.

    Args:
        ppg: [N, T, C] float, systole up, band-passed.
        rate_hz: samples per second.

    Returns:
        [N, n] float32 of unit norm, at `ballistocardiogram.ENVELOPE_HZ`; zeros for a signal without change.
    """
    centred = ppg - ppg.mean(axis=1, keepdims=True)
    level = np.sqrt((centred**2).mean(axis=1, keepdims=True))
    mean = (centred / np.where(level > 0, level, 1.0)).mean(axis=2)
    return _pulse_curve(np.maximum(np.gradient(mean, axis=1), 0.0), rate_hz=rate_hz)


def best_lag(accel: np.ndarray, ppg: np.ndarray) -> int:
    """Steps by which the PPG's curves [N, n] follow those of the acceleration [N, n] of the same minutes: the largest mean product."""
    steps = range(round(MOST_LAG_S * bcg.ENVELOPE_HZ) + 1)
    products = [float((np.roll(accel, step, axis=1) * ppg).sum()) for step in steps]
    return int(np.argmax(products))


def _pulse_curve(curve: np.ndarray, *, rate_hz: float) -> np.ndarray:
    """Pulse rates of a curve [N, T], resampled, divided by their own level in 5 s, of unit norm: [N, n] float32."""
    samples = curve.shape[1]
    length = round(samples / rate_hz * bcg.ENVELOPE_HZ)
    kept = scipy.fft.rfft(curve, axis=1) * bcg.band_gain(samples, rate_hz, *_PULSE_HZ)
    pulse = scipy.fft.irfft(kept[:, : length // 2 + 1], length, axis=1) * (length / samples)
    power = pulse**2
    level = uniform_filter1d(power, round(_LEVEL_S * bcg.ENVELOPE_HZ), axis=1) + 1e-3 * power.mean(
        axis=1, keepdims=True
    )
    flat = pulse / np.sqrt(np.maximum(level, 1e-30))
    return (flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)).astype(np.float32)
