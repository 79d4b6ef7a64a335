"""The classical baseline: hand-made features of a minute of wrist acceleration, for the same probes as an embedding.

The features describe heart rate and its variability without a neural network: power in bands, jerk, posture, the
ballistocardiogram's spectrum, the periodicity of its envelope, and the intervals between its beats. `FEATURES` names the
columns. Quantities that spread over orders of magnitude are decadic logarithms.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from accdistill_jax.data.preprocessing.hrv import hrv
from accdistill_jax.data.preprocessing.quality import motion_g
from accdistill_jax.data.preprocessing.respiration import BESIDE_HZ, tilt_spectrum
from accdistill_jax.data.recording import Beats
from accdistill_jax.evaluation.classical import ballistocardiogram as bcg

POWER_BANDS_HZ = (
    (0.1, 0.5),
    (0.5, 1.0),
    (1.0, 2.0),
    (2.0, 4.0),
    (4.0, 6.0),
    (6.0, 8.0),
    (8.0, 10.0),
    (10.0, 12.0),
    (12.0, 16.0),
    (16.0, 24.0),
    (24.0, 32.0),
)
_BCG_HZ = (bcg.BANDS_HZ[0][0], bcg.BANDS_HZ[-1][1])
_BAND_NAMES = tuple(f"{low:g}_{high:g}_hz" for low, high in bcg.BANDS_HZ)
_INTERVALS = ("count", "coverage", "hr_bpm", "sdnn_ms", "rmssd_ms", "spread_ms", "change_ms")

FEATURES = (
    # Posture: mean of each axis in g, and the angle between the directions of the first and last sixth of the minute.
    "mean_x_g",
    "mean_y_g",
    "mean_z_g",
    "turn_deg",
    # log10 of power in g^2, sum over the axes.
    *(f"log_power_{low:g}_{high:g}_hz" for low, high in POWER_BANDS_HZ),
    # log10 of the jerk vector's length in g/s, and of `data.preprocessing.quality.motion_g`.
    "log_jerk_rms",
    "log_jerk_median",
    "log_motion",
    # Spectrum at 4 to 12 Hz: highest peak, its share of power (+-0.5 Hz), centroid, standard deviation; power by axis.
    "bcg_peak_hz",
    "bcg_peak_share",
    "bcg_centroid_hz",
    "bcg_width_hz",
    "bcg_share_x",
    "bcg_share_y",
    "bcg_share_z",
    # Envelope at 4 to 12 Hz: log10 of its median in g, standard deviation / mean, kurtosis (log10 of 1 + fourth moment ratio).
    "log_envelope",
    "envelope_variation",
    "log_envelope_kurtosis",
    # Values of `ballistocardiogram.PulseRate`, then its spectral peak and weight in each band.
    "rate_bpm",
    "rate_score",
    "rate_margin",
    "spectral_bpm",
    "spectral_share",
    "acf_bpm",
    "acf_height",
    "acf_width_s",
    "acf_half_height",
    "acf_double_height",
    *(f"spectral_bpm_{name}" for name in _BAND_NAMES),
    *(f"periodicity_{name}" for name in _BAND_NAMES),
    # Beats: number, share of the minute in normal intervals, rate, SDNN, RMSSD (as in `data.preprocessing.hrv`; 0 with too few
    # intervals), interquartile range of the intervals / 1.349, median absolute change between neighbouring intervals. First for
    # the peaks of the envelope, then for the times refined by the template.
    *(f"envelope_{name}" for name in _INTERVALS),
    *(f"template_{name}" for name in _INTERVALS),
    # Tilt by breathing: highest peak at 0.1 to 0.6 Hz in breaths/min, and its share of that band's power (+-0.03 Hz).
    "respiration_bpm",
    "respiration_share",
)


def classical_features(accel: np.ndarray, *, rate_hz: float = 64.0, block: int = 64) -> np.ndarray:
    """Features of segments of acceleration. Each row depends on its segment alone.

    Args:
        accel: [B, T, 3] float32, in g, at `rate_hz`; at least 20 s.
        rate_hz: samples per second, above 26.
        block: segments that are processed at a time, so that their arrays fit the processor's cache.

    Returns:
        [B, len(FEATURES)] float32, finite for finite segments.

    Raises:
        ValueError: another shape, a signal that is too short, or a rate that is too low.
    """
    accel = np.asarray(accel)
    if accel.ndim != 3 or accel.shape[2] != 3 or accel.shape[1] < 20 * rate_hz or rate_hz <= 26:
        raise ValueError(
            f"features need segments [B, T, 3] of at least 20 s at more than 26 Hz, got {accel.shape} at {rate_hz:g} Hz"
        )
    rows = [_block(accel[i : i + block].astype(np.float32), rate_hz) for i in range(0, len(accel), block)]
    return np.concatenate(rows) if rows else np.empty((0, len(FEATURES)), np.float32)


def _block(accel: np.ndarray, rate_hz: float) -> np.ndarray:
    samples = accel.shape[1]
    transform = bcg.spectrum(accel)
    power = (transform.real**2 + transform.imag**2) * np.float32(2.0 / samples**2)  # [B, 3, F] g^2
    frequency = np.arange(power.shape[2]) * (rate_hz / samples)
    columns = [*_posture(accel), *_powers(power, frequency)]
    columns += [*_jerk(accel, rate_hz), _log(motion_g(accel, rate_hz=rate_hz), bcg.FLOOR_G)]
    columns += _bcg_spectrum(power, frequency)

    options = {"samples": samples, "rate_hz": rate_hz}
    envelopes = [bcg.envelope(transform, band, **options) for band in bcg.BANDS_HZ]
    columns += _envelope_shape(envelopes[bcg.BANDS_HZ.index(_BCG_HZ)])
    curves = np.stack([bcg.flatten_envelope(curve) for curve in envelopes], axis=1)
    rate = bcg.pulse_rate(curves)
    columns += [
        rate.rate_bpm,
        rate.score,
        rate.margin,
        rate.peak_bpm,
        rate.peak_share,
        rate.acf_bpm,
        rate.acf_height,
        rate.acf_width_s,
        rate.half_height,
        rate.double_height,
        *rate.band_bpm.T,
        *rate.band_weight.T,
    ]
    share = rate.band_weight**2 / np.maximum((rate.band_weight**2).sum(axis=1, keepdims=True), 1e-9)
    beats = bcg.envelope_beats(np.einsum("bk,bkn->bn", share, curves), rate.rate_bpm)
    columns += _intervals(beats, samples / rate_hz)
    columns += _intervals(bcg.template_beats(transform, beats, **options), samples / rate_hz)
    columns += _respiration(accel, rate_hz)
    return np.stack(columns, axis=1).astype(np.float32)


def _posture(accel: np.ndarray) -> list[np.ndarray]:
    part = accel.shape[1] // 6
    first, last = accel[:, :part].mean(axis=1), accel[:, -part:].mean(axis=1)
    length = np.linalg.norm(first, axis=1) * np.linalg.norm(last, axis=1)
    across = np.linalg.norm(np.cross(first, last), axis=1)
    turn = np.degrees(np.arctan2(across, (first * last).sum(axis=1)))
    return [*accel.mean(axis=1).T, np.where(length > bcg.FLOOR_G, turn, 0.0)]


def _powers(power: np.ndarray, frequency: np.ndarray) -> list[np.ndarray]:
    total = power.sum(axis=1)
    floor = bcg.FLOOR_G**2
    return [_log(total[:, (frequency >= low) & (frequency < high)].sum(axis=1), floor) for low, high in POWER_BANDS_HZ]


def _jerk(accel: np.ndarray, rate_hz: float) -> list[np.ndarray]:
    square = (np.diff(accel, axis=1) ** 2).sum(axis=2)
    floor = bcg.FLOOR_G * rate_hz
    return [
        _log(rate_hz * np.sqrt(square.mean(axis=1)), floor),
        _log(rate_hz * np.sqrt(np.median(square, axis=1)), floor),
    ]


def _bcg_spectrum(power: np.ndarray, frequency: np.ndarray) -> list[np.ndarray]:
    inside = (frequency >= _BCG_HZ[0]) & (frequency <= _BCG_HZ[1])
    by_axis, frequency = power[..., inside], frequency[inside]
    axes = by_axis.sum(axis=2)
    total = np.maximum(axes.sum(axis=1), bcg.FLOOR_G**2)
    spectrum = by_axis.sum(axis=1)
    wide = max(round(0.5 / (frequency[1] - frequency[0])), 1)
    sums = np.pad(np.cumsum(spectrum, axis=1), ((0, 0), (wide + 1, wide)), mode="edge")
    sums[:, : wide + 1] = 0.0
    smooth = sums[:, 2 * wide + 1 :] - sums[:, : -2 * wide - 1]  # power within +-0.5 Hz
    peak = smooth.argmax(axis=1)
    share = spectrum / total[:, None]
    centroid = share @ frequency
    width = np.sqrt(np.maximum(share @ frequency**2 - centroid**2, 0.0))
    highest = smooth[np.arange(len(peak)), peak] / total
    return [frequency[peak], highest, centroid, width, *(axes / total[:, None]).T]


def _envelope_shape(envelope: np.ndarray) -> list[np.ndarray]:
    mean = envelope.mean(axis=1) + bcg.FLOOR_G
    relative = envelope / mean[:, None]
    deviation = relative - relative.mean(axis=1, keepdims=True)
    variance = (deviation**2).mean(axis=1)
    kurtosis = (deviation**4).mean(axis=1) / np.maximum(variance**2, 1e-12)
    return [_log(np.median(envelope, axis=1), bcg.FLOOR_G), np.sqrt(variance), np.log10(1.0 + kurtosis)]


def _intervals(beats: Sequence[np.ndarray], duration_s: float) -> list[np.ndarray]:
    """Features of the intervals between beats, in the order of `_INTERVALS`."""
    intervals = [np.diff(times) for times in beats]
    pairs = [Beats(times[1:], lengths) for times, lengths in zip(beats, intervals, strict=True)]
    labels = hrv(pairs, segment_s=duration_s, min_coverage=0.0, min_pairs=1)
    spread, change = np.zeros(len(beats)), np.zeros(len(beats))
    for row, lengths in enumerate(intervals):
        if len(lengths) >= 3:
            low, high = np.quantile(lengths, [0.25, 0.75])
            spread[row], change[row] = 1000 * (high - low) / 1.349, 1000 * np.median(np.abs(np.diff(lengths)))
    known = [np.nan_to_num(x, nan=0.0) for x in (labels.hr_bpm, labels.sdnn_ms, labels.rmssd_ms)]
    return [np.array([len(times) for times in beats]), labels.coverage, *known, spread, change]


def _respiration(accel: np.ndarray, rate_hz: float) -> list[np.ndarray]:
    """Rate and share of the highest peak of the slow signal."""
    power, frequency = tilt_spectrum(accel, rate_hz=rate_hz)
    peak = frequency[power.argmax(axis=1)]
    beside = np.abs(frequency - peak[:, None]) <= BESIDE_HZ
    total = np.maximum(power.sum(axis=1), 1e-12)
    return [60.0 * peak, (power * beside).sum(axis=1) / total]


def _log(values: np.ndarray, floor: float) -> np.ndarray:
    return np.log10(np.maximum(values, floor))
