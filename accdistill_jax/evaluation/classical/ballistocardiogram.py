"""Heart rate and heart beats from the acceleration of a still wrist, by signal processing alone.

Every beat shakes the wrist for a few tenths of a second at 4 to 12 Hz (the ballistocardiogram). The envelope of this band
repeats with the pulse, so its spectrum and its autocorrelation show the heart rate. Tremor disturbs the upper half of the
band. The lower half alone is too narrow for a fast pulse, because hardly two of its harmonics fit into the half. So this module
uses the envelopes of the lower half and of the whole band, each weighted by its periodicity. Beats are peaks of the joint
envelope. A template refines their times: the mean wave around the beats, correlated with the acceleration.

Source: band-pass and envelope from Hernandez, McDuff and Picard, "BioWatch: estimation of heart and breathing rates from wrist
motions", PervasiveHealth 2015. The two bands, the score and the template are additions.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import scipy.fft
from scipy.ndimage import gaussian_filter1d, uniform_filter1d
from scipy.signal import find_peaks

BANDS_HZ = ((4.0, 8.0), (4.0, 12.0))
RATES_BPM = np.arange(38.0, 200.25, 0.5)
"""Candidate heart rates."""

ENVELOPE_HZ = 32.0
FLOOR_G = 1e-6  # far below any sensor's noise; smaller values are rounding errors
_ROLL_OFF_HZ = 1.0
_CLIP = 3.0  # times the median envelope, which limits the weight of bursts of movement
_TREND_S, _LEVEL_S = 2.0, 5.0
_PULSE_HZ = (0.5, 8.0)  # range of the envelope's spectrum: pulse rate and harmonics
_LAGS = (1.0, 2.0, 0.5, 1.5)  # in periods; a true period correlates at whole periods and not at half periods
_TEMPLATE_S = (-0.25, 0.35)
_REACH_S = 0.08  # largest move of a beat by the template


class PulseRate(NamedTuple):
    """Features of the heart rate from the envelopes of B segments.

    Attributes:
        rate_bpm: [B] float32, best estimate of the mean heart rate of the minute.
        score: [B] autocorrelation at one and at two periods, minus the autocorrelation at 0.5 and at 1.5 periods: -4 to 4.
        margin: [B] score minus the best score of rates that differ by more than a tenth.
        peak_bpm: [B] rate at the highest peak of the joint spectrum.
        peak_share: [B] share of the joint spectrum's power within 0.05 Hz of that peak.
        acf_bpm: [B] rate at the highest peak of the joint autocorrelation.
        acf_height: [B] autocorrelation at that peak, -1 to 1.
        acf_width_s: [B] width of that peak at half its height.
        half_height, double_height: [B] autocorrelation at half of and at twice the period of `rate_bpm`.
        band_bpm: [B, 2] rate at the highest peak of each band's spectrum.
        band_weight: [B, 2] share of each band's power in its highest peak, a measure of its periodicity.
    """

    rate_bpm: np.ndarray
    score: np.ndarray
    margin: np.ndarray
    peak_bpm: np.ndarray
    peak_share: np.ndarray
    acf_bpm: np.ndarray
    acf_height: np.ndarray
    acf_width_s: np.ndarray
    half_height: np.ndarray
    double_height: np.ndarray
    band_bpm: np.ndarray
    band_weight: np.ndarray


def spectrum(accel: np.ndarray) -> np.ndarray:
    """Fourier transform of accel [B, T, 3] float32 without its mean: [B, 3, T // 2 + 1] complex64."""
    moved = np.moveaxis(accel, 2, 1).astype(np.float32)
    moved = moved - moved.mean(axis=2, keepdims=True)
    return scipy.fft.rfft(moved, axis=-1)


def envelope(transform: np.ndarray, band_hz: tuple[float, float], *, samples: int, rate_hz: float) -> np.ndarray:
    """Envelope of a band: length of the vector of the three axes' analytic signals.

    Args:
        transform: [B, 3, samples // 2 + 1], result of `spectrum`.
        band_hz: lower and upper edge; half the amplitude passes at the edges.
        samples: T of the segment.
        rate_hz: samples per second.

    Returns:
        [B, T / rate_hz * ENVELOPE_HZ] float32, in the unit of the acceleration, sampled at `ENVELOPE_HZ`.
    """
    passed = band_gain(samples, rate_hz, *band_hz)
    bins = np.flatnonzero(passed)
    length = round(samples / rate_hz * ENVELOPE_HZ)
    shifted = np.zeros((*transform.shape[:2], length), np.complex64)  # a shift in frequency keeps the magnitude
    shifted[..., : len(bins)] = transform[..., bins] * passed[bins]
    analytic = scipy.fft.ifft(shifted, axis=-1)
    power = (analytic.real**2 + analytic.imag**2).sum(axis=1)
    return np.sqrt(power) * np.float32(2.0 * length / samples)


def flatten_envelope(curve: np.ndarray) -> np.ndarray:
    """Removes bursts, slow trend and changes of level from an envelope [B, n]: mean about 0, size about 1."""
    level = np.median(curve, axis=1, keepdims=True) + FLOOR_G
    curve = np.minimum(curve / level, _CLIP)
    curve = curve - uniform_filter1d(curve, round(_TREND_S * ENVELOPE_HZ), axis=1)
    return curve / np.sqrt(uniform_filter1d(curve**2, round(_LEVEL_S * ENVELOPE_HZ), axis=1) + 1e-3)


def pulse_rate(curves: np.ndarray) -> PulseRate:
    """Heart rate from the flattened envelopes of several bands.

    The joint spectrum is the mean of the bands' normalised spectra, weighted by the square of `band_weight`. The rate with the
    best score (see `PulseRate`) wins. The score of half the true rate is low because of the correlation at half its lag; the
    score of twice the true rate is low because of the missing correlation at one of its lags. The winner moves to the centre of
    the nearest spectral peak.

    Args:
        curves: [B, bands, n] float32, sampled at `ENVELOPE_HZ`.
    """
    plan = _plan(curves.shape[2])
    power = np.abs(scipy.fft.rfft(curves * plan.window, plan.points, axis=-1)[..., plan.used]) ** 2
    power /= np.maximum(power.sum(axis=-1, keepdims=True), 1e-9)
    smooth = gaussian_filter1d(power, 3.0, axis=-1)
    rates = smooth[..., plan.pulse]
    weight = rates.max(axis=-1)
    joint = np.einsum("bk,bkf->bf", weight**2, power)
    joint /= np.maximum(joint.sum(axis=1, keepdims=True), 1e-9)

    one, two, half, three_halves = (joint @ c for c in plan.cosines)
    score = one + two - half - three_halves
    best = score.argmax(axis=1)
    row = np.arange(len(best))
    rate = RATES_BPM[best]
    near = np.abs(RATES_BPM / rate[:, None] - 1.0) <= 0.1
    acf = one.argmax(axis=1)
    height = one[row, acf]
    ratio = RATES_BPM[acf][:, None] / RATES_BPM
    wide = (one >= height[:, None] / 2) & (ratio > 0.8) & (ratio < 1.25)
    pulse_bpm = 60.0 * plan.frequency_hz[plan.pulse]
    highest = pulse_bpm[joint[:, plan.pulse].argmax(axis=1)]
    beside = np.abs(60.0 * plan.frequency_hz - highest[:, None]) <= 3.0
    return PulseRate(
        rate_bpm=_centre(joint, 60.0 * plan.frequency_hz, rate).astype(np.float32),
        score=score[row, best],
        margin=score[row, best] - np.where(near, -np.inf, score).max(axis=1),
        peak_bpm=highest,
        peak_share=(joint * beside).sum(axis=1),
        acf_bpm=RATES_BPM[acf],
        acf_height=height,
        acf_width_s=(wide * plan.lag_step_s).sum(axis=1),
        half_height=half[row, best],
        double_height=two[row, best],
        band_bpm=pulse_bpm[rates.argmax(axis=-1)],
        band_weight=weight,
    )


def envelope_beats(curve: np.ndarray, rate_bpm: np.ndarray) -> list[np.ndarray]:
    """Times of the envelope's peaks, about one per period.

    Args:
        curve: [B, n] float32, a flattened envelope sampled at `ENVELOPE_HZ`.
        rate_bpm: [B] heart rate.

    Returns:
        B arrays of times in seconds after the start of the segment, interpolated between samples.
    """
    smooth = gaussian_filter1d(curve, 0.06 * ENVELOPE_HZ, axis=1)
    beats = []
    for row, rate in zip(smooth, rate_bpm, strict=True):
        apart = 0.62 * 60.0 / float(rate) * ENVELOPE_HZ
        peaks = find_peaks(row, distance=max(apart, 1.0), prominence=0.25 * float(row.std()))[0]
        beats.append((peaks + _vertex(row[peaks - 1], row[peaks], row[peaks + 1])) / ENVELOPE_HZ)
    return beats


def template_beats(
    transform: np.ndarray, beats: list[np.ndarray], *, samples: int, rate_hz: float, rounds: int = 2
) -> list[np.ndarray]:
    """Moves each beat, by at most 0.08 s, to the best fit of the mean wave around all beats.

    Args:
        transform: [B, 3, samples // 2 + 1], result of `spectrum`.
        beats: B arrays of times in seconds.
        samples: T of the segment.
        rate_hz: samples per second.
        rounds: number of times the template is computed from the moved beats.

    Returns:
        B sorted arrays of times, of the same sizes.
    """
    filtered = transform * band_gain(samples, rate_hz, BANDS_HZ[0][0], BANDS_HZ[-1][1])
    offset = np.arange(samples) / rate_hz
    offset[offset > samples / rate_hz / 2] -= samples / rate_hz
    low, high = _TEMPLATE_S
    inside = np.clip((offset - low) / 0.05, 0, 1) * np.clip((high - offset) / 0.05, 0, 1)
    reach = round(_REACH_S * rate_hz)
    steps = np.arange(-reach, reach + 1)
    for _ in range(rounds):
        train = np.zeros((len(beats), samples), np.float32)
        for row, times in zip(train, beats, strict=True):
            row[np.clip(np.round(times * rate_hz).astype(int), 0, samples - 1)] = 1.0
        at_beats = np.conj(scipy.fft.rfft(train, axis=-1))[:, None]
        template = scipy.fft.irfft(filtered * at_beats, samples, axis=-1) * inside.astype(np.float32)
        fit = scipy.fft.irfft((filtered * np.conj(scipy.fft.rfft(template, axis=-1))).sum(axis=1), samples, axis=-1)
        moved = []
        for row, times in zip(fit, beats, strict=True):
            centre = np.clip(np.round(times * rate_hz).astype(int), reach + 1, samples - reach - 2)
            best = centre + steps[row[centre[:, None] + steps].argmax(axis=1)]
            moved.append(np.sort(best + _vertex(row[best - 1], row[best], row[best + 1])) / rate_hz)
        beats = moved
    return beats


class _Plan(NamedTuple):
    points: int
    window: np.ndarray
    used: slice
    frequency_hz: np.ndarray
    pulse: np.ndarray
    cosines: list[np.ndarray]
    lag_step_s: np.ndarray


@functools.lru_cache(maxsize=4)
def _plan(length: int) -> _Plan:
    """Used frequencies of the envelope's spectrum, and their contributions to the autocorrelation at the lags of all rates."""
    points = scipy.fft.next_fast_len(2 * length, real=True)
    frequency = np.arange(points // 2 + 1) * (ENVELOPE_HZ / points)
    used = slice(*np.searchsorted(frequency, _PULSE_HZ))
    frequency = frequency[used]
    pulse = np.flatnonzero((frequency >= RATES_BPM[0] / 60) & (frequency <= RATES_BPM[-1] / 60))
    lag = 60.0 / RATES_BPM
    cosines = [np.cos(2 * np.pi * frequency[:, None] * (m * lag)).astype(np.float32) for m in _LAGS]
    window = np.hanning(length).astype(np.float32)
    return _Plan(points, window, used, frequency, pulse, cosines, -np.gradient(lag))


@functools.lru_cache(maxsize=16)
def band_gain(samples: int, rate_hz: float, low_hz: float, high_hz: float) -> np.ndarray:
    """Gain of a band-pass at each frequency of a real Fourier transform of `samples`: 1 inside, 0.5 at the edges; float32."""
    frequency = np.arange(samples // 2 + 1) * (rate_hz / samples)
    half = _ROLL_OFF_HZ / 2
    edges = [low_hz - half, low_hz + half, high_hz - half, high_hz + half]
    return np.interp(frequency, edges, [0, 1, 1, 0]).astype(np.float32)


def _centre(power: np.ndarray, frequency_bpm: np.ndarray, rate_bpm: np.ndarray) -> np.ndarray:
    """Centroid of the power within 3 bpm of the highest point near (within 4 % of) a rate; the rate without any power."""
    near = np.abs(frequency_bpm / rate_bpm[:, None] - 1.0) <= 0.04
    peak = frequency_bpm[np.where(near, power, -1.0).argmax(axis=1)]
    part = power * (np.abs(frequency_bpm - peak[:, None]) <= 3.0)
    total = part.sum(axis=1)
    return np.where(total > 0, part @ frequency_bpm / np.where(total > 0, total, 1.0), rate_bpm)


def _vertex(before: np.ndarray, at: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Vertex of the parabola through three neighbouring samples: -0.5 to 0.5 samples from the middle sample."""
    bend = before - 2 * at + after
    return np.where(bend < 0, np.clip(0.5 * (before - after) / np.where(bend < 0, bend, -1.0), -0.5, 0.5), 0.0)
