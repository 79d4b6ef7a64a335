"""Minutes without a heart, made from recorded ones. They decide from which embeddings read-outs say nothing.

A recorded minute and its heartless copy are alike in everything but the beats, so an encoder that embeds both alike has not
seen the heart in that minute.
"""

from __future__ import annotations

import numpy as np
import scipy  # its parts are imported by their first use: scipy.signal takes a second

HEARTLESS_VERSION = 1  # of the minutes: those of another one are made and embedded again
SLOW_HZ = 0.4
"""Breathing, posture and drift lie below; every beat lies above."""
_SMOOTHED_HZ = 4.0  # wider than the distance of a fast heart's harmonics, so that no rate is left in the spectrum
_LEVELS_S = 4.0  # changes of the level that are slower than beats are kept
_SHARE_COPIES = 0.5
_SHARE_BUMPS = 0.5
_MOST_BUMPS, _LONGEST_BUMP_S = 10, 0.5
_MOST_COLOUR = 2.0  # exponent of the power's fall with frequency: 0 is white noise, 2 a random walk
_LEVEL_DECADES = 1.5


def heartless_minute(signal: np.ndarray, *, rate_hz: float, rng: np.random.Generator) -> np.ndarray:
    """A minute without a heart, of one of two kinds with equal probability.

    - A copy keeps all that is slow (posture, breathing, drift). Noise of the same spectrum, smoothed over 4 Hz, takes the place of
      the rest, with the same directions and slow changes of level.
    - Plain noise is what a device off the body records: the mean of the minute, and noise of any colour from white to a random walk,
      of 0.03 to 30 times the minute's level; half of these minutes have nothing above some frequency, as at a low sampling rate,
      and half have coarse steps.

    Half of the minutes of each kind have up to ten short bumps at random times, as knocks and small movements make.

    Args:
        signal: [T, C] float, acceleration or PPG.
        rate_hz: samples per second.
        rng: source of the noise.

    Returns:
        [T, C] float32, in the signal's unit.
    """
    values = np.asarray(signal, np.float64)
    low = scipy.signal.butter(4, SLOW_HZ, fs=rate_hz, output="sos")
    slow = scipy.signal.sosfiltfilt(low, values, axis=0)
    if rng.random() < _SHARE_COPIES:
        base, fast = slow, _noise_like(values - slow, rate_hz=rate_hz, rng=rng)
    else:
        base, fast = values.mean(axis=0), _plain_noise(values - slow, rate_hz=rate_hz, rng=rng)
    if rng.random() < _SHARE_BUMPS:
        fast = fast + _bumps(fast, rate_hz=rate_hz, rng=rng)
    return (base + fast).astype(np.float32)


def _noise_like(fast: np.ndarray, *, rate_hz: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise [T, C] with the smoothed spectrum, the main directions and the slow changes of level of a signal [T, C]."""
    samples = len(fast)
    _, directions = np.linalg.eigh(np.cov(fast, rowvar=False).reshape(fast.shape[1], -1))
    turned = fast @ directions
    power = np.abs(np.fft.rfft(turned, axis=0)) ** 2
    frequency = np.fft.rfftfreq(samples, 1 / rate_hz)
    width = max(round(_SMOOTHED_HZ * samples / rate_hz), 1)
    smooth = scipy.ndimage.uniform_filter1d(power, width, axis=0, mode="nearest")
    smooth[frequency < SLOW_HZ] = 0.0
    noise = np.fft.irfft(np.sqrt(smooth) * _white(smooth.shape, rng), samples, axis=0)
    level, of_noise = (_slow_level(part, rate_hz=rate_hz) for part in (turned, noise))
    return (noise * level / np.maximum(of_noise, 1e-12)) @ directions.T


def _slow_level(signal: np.ndarray, *, rate_hz: float) -> np.ndarray:
    """Root mean square [T, C] over some seconds."""
    square, width = signal**2, round(_LEVELS_S * rate_hz)
    for _ in range(2):
        square = scipy.ndimage.uniform_filter1d(square, width, axis=0, mode="nearest")
    return np.sqrt(np.maximum(square, 0.0))


def _plain_noise(fast: np.ndarray, *, rate_hz: float, rng: np.random.Generator) -> np.ndarray:
    samples, level = len(fast), float(fast.std())
    frequency = np.fft.rfftfreq(samples, 1 / rate_hz)
    with np.errstate(divide="ignore"):
        shape = np.where(frequency > 0, frequency ** (-0.5 * rng.uniform(0.0, _MOST_COLOUR)), 0.0)
    if rng.random() < 0.5:
        highest = 0.5 * (0.5 * rate_hz) ** rng.random()  # from 0.5 Hz
        shape = np.where(frequency <= highest, shape, 0.0)
    noise = np.fft.irfft(shape[:, None] * _white((len(shape), fast.shape[1]), rng), samples, axis=0)
    noise *= level * 10 ** rng.uniform(-_LEVEL_DECADES, _LEVEL_DECADES) / max(float(noise.std()), 1e-12)
    if rng.random() < 0.5:
        step = rng.uniform(0.5, 3.0) * max(float(noise.std()), 1e-12)
        noise = step * np.round(noise / step)
    return noise


def _bumps(noise: np.ndarray, *, rate_hz: float, rng: np.random.Generator) -> np.ndarray:
    """Short bumps [T, C] at random times, up to 30 times as high as the noise [T, C]."""
    bumps, level = np.zeros_like(noise), float(noise.std())
    samples, channels = noise.shape
    for _ in range(rng.integers(1, _MOST_BUMPS + 1)):
        length = round((_LONGEST_BUMP_S * rate_hz) ** rng.random())
        start = rng.integers(0, samples - length)
        height = level * 10 ** rng.uniform(0.0, _LEVEL_DECADES) * rng.normal(size=channels)
        bumps[start : start + length] += height * np.hanning(length + 2)[1:-1, None]
    return bumps


def _white(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)
