"""WristMeasures of minutes from a wrist: sensor noise, small motion, the heartbeat in the acceleration, posture and breathing.

They need PPG and acceleration alone, so recorded and synthetic stores are measured alike. The ranges of the second generator
(`data.synthetic.wrist`) follow such measures.

A heartbeat of a few mg is below the noise of many sensors. Its mean over the beats of a minute is not, and beats are found as
the steepest rises of the PPG.
"""

import functools
from typing import NamedTuple

import numpy as np
import scipy.fft

from accdistill_jax.data.preprocessing.quality import MOTION_WINDOW_S

NOISE_HZ = (20.0, 30.0)
BEAT_HZ = (1.0, 20.0)
BREATH_HZ = (0.13, 0.5)
AROUND_S = (-0.35, 0.45)
"""Window around the steepest rise of the PPG. The heart shakes the wrist before the pulse wave arrives there."""
MIN_BEATS = 15
LARGEST_LAG_S = 0.5
_RISE_HZ = (0.6, 4.0)
_SHAKE_HZ = (3.0, 10.0)
_PULSE_HZ = (0.6, 3.0)
_CLIP_SD = 4.0
_GOLDEN = 0.6180339887  # its multiples are spread evenly within 0 to 1


class WristMeasures(NamedTuple):
    """WristMeasures of N minutes, all [N] float32. NaN: the minute has too few beats, or no beat wave above chance.

    Attributes:
        noise_mg: noise density at 20 to 30 Hz in mg/sqrt(Hz): median over frames of 2 s, frequencies and axes.
        motion_mg: standard deviation of the acceleration vector in windows of 2 s, median over windows.
        beat_mg: peak to peak of the mean acceleration over the beats, 1 to 20 Hz, on the axis where it is largest.
        chance_mg: the same at times spread evenly over the intervals between beats, where no wave of the heart remains.
        beat_hz: centre of the mean wave's spectrum.
        steadiness: correlation of the mean waves of the first and the last half of the beats, relative to that of even and odd
            beats: 1 if shape and direction stay the same in the minute.
        lag_s: lag of the PPG's rise after the envelope of the acceleration at 3 to 10 Hz, -0.5 to 0.5 s.
        turn_deg: angle between gravity in the first and in the last tenth of the minute.
        breath_mg: standard deviation of the acceleration vector at 0.13 to 0.5 Hz.
    """

    noise_mg: np.ndarray
    motion_mg: np.ndarray
    beat_mg: np.ndarray
    chance_mg: np.ndarray
    beat_hz: np.ndarray
    steadiness: np.ndarray
    lag_s: np.ndarray
    turn_deg: np.ndarray
    breath_mg: np.ndarray


def measure_minutes(ppg: np.ndarray, accel: np.ndarray, *, rate_hz: float) -> WristMeasures:
    """WristMeasures segments.

    Args:
        ppg: [N, T, C] float, band-passed, systole up; the channels are averaged.
        accel: [N, T, 3] float, in g.
        rate_hz: samples per second of both, above 60.
    """
    rows = [_measure(p, a, rate_hz) for p, a in zip(ppg, accel, strict=True)]
    return WristMeasures(*np.array(rows, np.float32).reshape(len(rows), len(WristMeasures._fields)).T)


def pulse_rises(ppg: np.ndarray, *, rate_hz: float) -> np.ndarray:
    """Times of the steepest rises of a pulse, in s from its start.

    Args:
        ppg: [T, C] float, systole up.
        rate_hz: samples per second.

    Returns:
        [n] float64, interpolated between samples.
    """
    import scipy.signal  # takes a second

    slope = _pulse_slope(ppg, rate_hz, _RISE_HZ)
    peaks, about = scipy.signal.find_peaks(slope, distance=max(round(0.4 * rate_hz), 1), height=0.0)
    if len(peaks):
        peaks = peaks[about["peak_heights"] > 0.4 * np.quantile(about["peak_heights"], 0.8)]
    before, at, after = slope[peaks - 1], slope[peaks], slope[peaks + 1]
    return (peaks + 0.5 * (before - after) / np.minimum(before - 2.0 * at + after, -1e-12)) / rate_hz


@functools.lru_cache(maxsize=16)
def _sections(rate_hz: float, band_hz: tuple[float, float]) -> np.ndarray:
    import scipy.signal  # takes a second

    return np.asarray(scipy.signal.butter(3, band_hz, btype="bandpass", fs=rate_hz, output="sos"))


def _band(signal: np.ndarray, rate_hz: float, band_hz: tuple[float, float]) -> np.ndarray:
    import scipy.signal  # takes a second

    filtered: np.ndarray = scipy.signal.sosfiltfilt(_sections(rate_hz, band_hz), signal - signal.mean(axis=0), axis=0)
    return filtered


def _pulse_slope(ppg: np.ndarray, rate_hz: float, band_hz: tuple[float, float]) -> np.ndarray:
    """Slope of the mean of the normalised channels."""
    centred = ppg - ppg.mean(axis=0)
    wave = (centred / np.maximum(centred.std(axis=0), 1e-12)).mean(axis=1)
    return np.gradient(_band(wave[:, None], rate_hz, band_hz)[:, 0])


def _measure(ppg: np.ndarray, accel: np.ndarray, rate_hz: float) -> tuple[float, ...]:
    mg = 1e3 * np.asarray(accel, np.float64)
    mg_moved = mg - mg.mean(axis=0)
    window = round(MOTION_WINDOW_S * rate_hz)
    windows = mg_moved[: len(mg) // window * window].reshape(-1, window, 3)
    motion = float(np.median(np.sqrt(windows.var(axis=1).sum(axis=1))))
    tenth = len(mg) // 10
    first, last = mg[:tenth].mean(axis=0), mg[-tenth:].mean(axis=0)
    turn = float(np.degrees(np.arctan2(np.linalg.norm(np.cross(first, last)), first @ last)))
    breath = float(np.sqrt(_band(mg, rate_hz, BREATH_HZ).var(axis=0).sum()))
    heart = _heart(ppg, mg_moved, rate_hz)
    return (_noise(windows, rate_hz), motion, *heart, _lag(ppg, mg_moved, rate_hz), turn, breath)


def _noise(windows: np.ndarray, rate_hz: float) -> float:
    taper = np.hanning(windows.shape[1])
    power = np.abs(scipy.fft.rfft(windows * taper[:, None], axis=1)) ** 2 * (2.0 / (rate_hz * np.sum(taper**2)))
    frequency = np.arange(power.shape[1]) * (rate_hz / windows.shape[1])
    inside = (frequency >= NOISE_HZ[0]) & (frequency <= NOISE_HZ[1])
    # The median of an exponential variable is ln 2 times its mean.
    return float(np.sqrt(np.median(power[:, inside]) / np.log(2.0)))


def _heart(ppg: np.ndarray, mg: np.ndarray, rate_hz: float) -> tuple[float, float, float, float]:
    """Fields beat_mg, chance_mg, beat_hz and steadiness of `WristMeasures`."""
    beats = pulse_rises(ppg, rate_hz=rate_hz)
    if len(beats) < MIN_BEATS:
        return (np.nan,) * 4
    shake = _band(mg, rate_hz, BEAT_HZ)
    waves = _calm(_cut(shake, beats, rate_hz))
    shifted = beats[:-1] + np.diff(beats) * (_GOLDEN * np.arange(1, len(beats)) % 1.0)
    wave, chance = waves.mean(axis=0), _calm(_cut(shake, shifted, rate_hz)).mean(axis=0)
    beat_mg, chance_mg = float(np.ptp(wave, axis=0).max()), float(np.ptp(chance, axis=0).max())
    half = len(waves) // 2
    alike = _correlation(waves[:half].mean(axis=0), waves[half:].mean(axis=0))
    possible = _correlation(waves[::2].mean(axis=0), waves[1::2].mean(axis=0))
    if beat_mg < 1.5 * chance_mg or possible < 0.3:
        return beat_mg, chance_mg, np.nan, np.nan
    power = (np.abs(scipy.fft.rfft(wave, 4 * len(wave), axis=0)) ** 2).sum(axis=1)
    frequency = np.arange(len(power)) * (rate_hz / (4 * len(wave)))
    return beat_mg, chance_mg, float(power @ frequency / power.sum()), alike / possible


def _cut(signal: np.ndarray, times_s: np.ndarray, rate_hz: float) -> np.ndarray:
    """Windows [beats, samples, 3] around times, at the nearest samples."""
    low, high = (round(edge * rate_hz) for edge in AROUND_S)
    at = np.round(times_s * rate_hz).astype(int)
    at = at[(at + low >= 0) & (at + high <= len(signal))]
    return signal[at[:, None] + np.arange(low, high)]


def _calm(waves: np.ndarray) -> np.ndarray:
    """Leaves out windows with more than twice the median's spread, which a movement would dominate."""
    spread = waves.std(axis=1).max(axis=1)
    return waves[spread <= 2.0 * np.median(spread)]


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / np.sqrt(max((a**2).sum() * (b**2).sum(), 1e-12)))


def _lag(ppg: np.ndarray, mg: np.ndarray, rate_hz: float) -> float:
    import scipy.signal  # takes a second

    shake = _band(mg, rate_hz, _SHAKE_HZ)
    size = np.median(np.abs(shake), axis=0) / 0.6745 + 1e-9
    length = np.linalg.norm(np.clip(shake / size, -_CLIP_SD, _CLIP_SD), axis=1)
    envelope = _band(length[:, None], rate_hz, _PULSE_HZ)[:, 0]
    reach = round(LARGEST_LAG_S * rate_hz)
    slope = _pulse_slope(ppg, rate_hz, _PULSE_HZ)
    fit = scipy.signal.correlate(slope, envelope[reach:-reach], mode="valid", method="fft")
    return (int(fit.argmax()) - reach) / rate_hz
