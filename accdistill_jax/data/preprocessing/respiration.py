"""Respiration rate of a minute by classical means, from PPG and from acceleration, each with a quality of its own.

Breathing tilts the wrist, and modulates the height of the pulse and the intervals between beats. Each of these gives a slow signal;
the rate is the highest peak of its spectrum at 0.1 to 0.6 Hz, and the quality is the share of that band's power within 0.03 Hz of the
peak: 1 for a pure tone, about 0.1 for noise. The joint estimate is the peak of the mean spectrum, so signals that agree raise its quality.

Source: Charlton et al. 2016, Physiol Meas 37, 610 (modulations of the PPG); Karlen et al. 2013, IEEE Trans Biomed Eng 60, 1946
(joining them). The mean of spectra and the quality are choices made here.
"""

import functools
from typing import NamedTuple

import numpy as np
import scipy.fft
import scipy.signal

from accdistill_jax.data.preprocessing.measures import MIN_BEATS, pulse_rises

RESPIRATION_HZ = (0.1, 0.6)
BESIDE_HZ = 0.03
_SLOW_HZ = 8.0
_AROUND_S = (-0.25, 0.45)  # the foot and the top of a pulse wave lie around its steepest rise
_OUTLIER = 4.0


class Respiration(NamedTuple):
    """Estimates for N minutes, all [N] float32; NaN (with quality 0) where a signal is missing.

    Attributes:
        bpm: breaths per minute, of all signals together.
        quality: of `bpm`, 0 to 1.
        accel_bpm: of the acceleration alone.
        accel_quality: of `accel_bpm`.
        ppg_bpm: of the PPG alone.
        ppg_quality: of `ppg_bpm`.
    """

    bpm: np.ndarray
    quality: np.ndarray
    accel_bpm: np.ndarray
    accel_quality: np.ndarray
    ppg_bpm: np.ndarray
    ppg_quality: np.ndarray


class Spectrum(NamedTuple):
    """Power in the band of respiration: power [..., F], frequency [F] in Hz."""

    power: np.ndarray
    frequency: np.ndarray


def estimate_respiration(ppg: np.ndarray | None, accel: np.ndarray, *, rate_hz: float) -> Respiration:
    """Estimates the respiration rate of minutes.

    Args:
        ppg: [N, T, C] float, band-passed, systole up; None without PPG.
        accel: [N, T, 3] float, in g.
        rate_hz: samples per second of both, at least 16.
    """
    tilt = tilt_spectrum(np.asarray(accel, np.float32), rate_hz=rate_hz)
    rows = []
    for row, of_accel in enumerate(_shares(tilt.power)):
        of_ppg = None if ppg is None else _ppg_shares(ppg[row], tilt, accel.shape[1], rate_hz)
        both = of_accel if of_ppg is None else (of_accel + of_ppg) / 2
        single = (np.nan, 0.0) if of_ppg is None else _peak(of_ppg, tilt.frequency)
        rows.append((*_peak(both, tilt.frequency), *_peak(of_accel, tilt.frequency), *single))
    return Respiration(*np.array(rows, np.float32).reshape(len(rows), len(Respiration._fields)).T)


def tilt_spectrum(accel: np.ndarray, *, rate_hz: float) -> Spectrum:
    """Spectrum of the slow acceleration (means over blocks of an eighth of a second), summed over the axes.

    Args:
        accel: [N, T, 3] float32, in g.
        rate_hz: samples per second.

    Returns:
        Power [N, F], multiplied by the squared frequency: slow changes of posture fall with it, so they become flat.
    """
    step = max(int(rate_hz // _SLOW_HZ), 1)
    length = accel.shape[1] // step
    slow = accel[:, : length * step].reshape(len(accel), length, step, 3).mean(axis=2)
    slow = slow - slow.mean(axis=1, keepdims=True)
    points = scipy.fft.next_fast_len(4 * length, real=True)
    spectrum = np.abs(scipy.fft.rfft(slow * np.hanning(length)[:, None].astype(np.float32), points, axis=1)) ** 2
    frequency = np.arange(points // 2 + 1) * (rate_hz / step / points)
    inside = (frequency >= RESPIRATION_HZ[0]) & (frequency <= RESPIRATION_HZ[1])
    power, frequency = spectrum[:, inside].sum(axis=2), frequency[inside]
    return Spectrum(power * (frequency / RESPIRATION_HZ[0]) ** 2, frequency)


def _shares(power: np.ndarray) -> np.ndarray:
    return power / np.maximum(power.sum(axis=-1, keepdims=True), 1e-30)


def _peak(shares: np.ndarray, frequency: np.ndarray) -> tuple[float, float]:
    """Rate per minute and quality."""
    at = frequency[shares.argmax()]
    return 60.0 * float(at), float(shares[np.abs(frequency - at) <= BESIDE_HZ].sum())


def _ppg_shares(ppg: np.ndarray, tilt: Spectrum, samples: int, rate_hz: float) -> np.ndarray | None:
    """Mean spectrum of the heights and intervals of the pulse, on the frequencies of `tilt`; None with too few beats."""
    beats = pulse_rises(ppg, rate_hz=rate_hz)
    low, high = (round(edge * rate_hz) for edge in _AROUND_S)
    at = np.round(beats * rate_hz).astype(int)
    whole = (at + low >= 0) & (at + high <= samples)
    if whole.sum() < MIN_BEATS:
        return None
    centred = ppg - ppg.mean(axis=0)
    wave = (centred / np.maximum(centred.std(axis=0), 1e-12)).mean(axis=1)
    heights = np.ptp(wave[at[whole, None] + np.arange(low, high)], axis=1)
    time_s = np.arange(0, samples / rate_hz, 1 / _SLOW_HZ)
    series = (
        np.interp(time_s, beats[whole], _without_outliers(heights)),
        np.interp(time_s, (beats[1:] + beats[:-1]) / 2, _without_outliers(np.diff(beats))),
    )
    return np.mean([_shares(_power(one, tilt.frequency)) for one in series], axis=0)


def _without_outliers(values: np.ndarray) -> np.ndarray:
    """Values beyond four robust standard deviations, such as of missed beats, are moved to that limit."""
    middle = np.median(values)
    limit = _OUTLIER * max(float(np.median(np.abs(values - middle))) / 0.6745, 1e-9)
    return np.clip(values, middle - limit, middle + limit)


def _power(slow: np.ndarray, frequency: np.ndarray) -> np.ndarray:
    """Power of a signal at 8 Hz at some frequencies."""
    tapered = scipy.signal.detrend(slow) * np.hanning(len(slow))
    power: np.ndarray = np.abs(_turns(len(slow), tuple(frequency.tolist())) @ tapered) ** 2
    return power


@functools.lru_cache(maxsize=8)
def _turns(count: int, frequency: tuple[float, ...]) -> np.ndarray:
    return np.exp(-2j * np.pi / _SLOW_HZ * np.outer(frequency, np.arange(count)))
