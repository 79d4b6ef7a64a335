"""Motion, and quality of the pulse in PPG or acceleration. Motion and the PPG's quality select segments.

`motion_g` is the short-term spread of the acceleration vector. `ppg_quality` is the product of two numbers in frames of 8 s: the
fraction of power at one pulse rate and its harmonics (spectral concentration), and the similarity of successive beats (correlation of
the wave with itself one beat earlier). Both are 1 for a perfectly periodic pulse; noise and motion reduce both. `accel_quality` is
the same number for the envelope of the ballistocardiogram, the shaking of the wrist at every beat.

The two factors are those of Elgendi, "Optimal signal quality index for photoplethysmogram signals", Bioengineering
3(4):21, 2016, and Orphanidou et al., "Signal-quality indices for the electrocardiogram and photoplethysmogram", IEEE JBHI
19(3):832-838, 2015; their product, the frames and the best channel are choices made here.
"""

import functools

import numpy as np
import scipy  # its parts are imported by their first use: scipy.signal takes a second

MOTION_WINDOW_S = 2.0
FRAME_S = 8.0
PULSE_HZ = (0.6, 3.5)
HARMONICS = 3
BEAT_BAND_HZ = (4.0, 12.0)
ENVELOPE_TOP_HZ = 8.0
TREND_S = 2.0
HALF_WIDTH_HZ = 0.1875
"""Half width of the band around each harmonic: the main lobe of the frame's window, and some change of the rate."""


def motion_g(accel: np.ndarray, *, rate_hz: float) -> np.ndarray:
    """Motion level: standard deviation of the acceleration vector within windows of 2 s, root mean square over the windows.

    The standard deviation of a window is sqrt(var x + var y + var z). Gravity, slow changes of posture and breathing have little
    effect; movement in any direction counts, and a turn of the wrist counts in its window.

    Args:
        accel: [N, T, 3] float, in g; samples after the last whole window are ignored (a segment shorter than a window is one
            window).
        rate_hz: samples per second.

    Returns:
        [N] float32, in g.
    """
    count, samples, axes = accel.shape
    length = min(round(MOTION_WINDOW_S * rate_hz), samples)
    windows = accel[:, : samples // length * length].reshape(count, samples // length, length, axes)
    moved = windows - windows[:, :, :1]  # squares of small numbers keep their precision in float32
    square = np.einsum("nwtc,nwtc->nw", moved, moved) / length
    mean = np.einsum("nwtc->nwc", moved) / length
    variance = np.maximum(square - (mean**2).sum(-1), 0)
    return np.sqrt(variance.mean(1)).astype(np.float32)


@functools.lru_cache(maxsize=8)
def _frame_plan(rate_hz: float, band_high_hz: float):
    """Candidate pulse rates of a frame, with the frequency bins and lags of each."""
    length = round(FRAME_S * rate_hz)
    points = scipy.fft.next_fast_len(2 * length, real=True)
    step_hz = rate_hz / points
    pulse_bins = np.arange(int(np.ceil(PULSE_HZ[0] / step_hz)), int(PULSE_HZ[1] / step_hz) + 1)
    half = max(int(round(HALF_WIDTH_HZ / step_hz)), 1)
    top = min(int(np.ceil(band_high_hz / step_hz)), points // 2)
    bins = np.arange(top + 1)
    members = np.zeros((top + 1, len(pulse_bins)), np.float32)
    for column, pulse in enumerate(pulse_bins):
        for harmonic in range(1, HARMONICS + 1):
            members[np.abs(bins - harmonic * pulse) <= half, column] = 1.0
    members[: int(PULSE_HZ[0] / step_hz) - half] = 0.0
    window = scipy.signal.get_window("hann", length).astype(np.float32)
    window_acf = scipy.fft.irfft(np.abs(scipy.fft.rfft(window, points)) ** 2, points)
    longest = int(np.ceil(rate_hz / PULSE_HZ[0] * 1.1)) + 1
    window_acf = (window_acf[: longest + 1] / window_acf[0]).astype(np.float32)
    lag = rate_hz / (pulse_bins * step_hz)
    lags = np.clip(np.round(lag[:, None] * np.linspace(0.9, 1.1, 9)), 1, longest).astype(np.int64)
    return length, points, top, members, window, window_acf, lags


def frame_quality(ppg: np.ndarray, *, rate_hz: float, band_high_hz: float) -> np.ndarray:
    """Quality of frames of 8 s, stepping by 4 s.

    Args:
        ppg: [M, T] float32, band-passed, at `rate_hz`.
        rate_hz: samples per second.
        band_high_hz: upper edge of the band-pass; power above it is ignored.

    Returns:
        [M, frames] float32, 0 to 1: concentration times self-similarity.
    """
    factor = max(
        int(rate_hz / (4 * band_high_hz)), 1
    )  # the band-pass left nothing above the band, so fewer samples are enough
    ppg, rate_hz = ppg[:, ::factor], rate_hz / factor
    length, points, top, members, window, window_acf, lags = _frame_plan(rate_hz, band_high_hz)
    if ppg.shape[1] < length:
        ppg = np.pad(ppg, ((0, 0), (0, length - ppg.shape[1])))
    frames = np.lib.stride_tricks.sliding_window_view(ppg, length, axis=1)[:, :: length // 2]
    power = np.abs(scipy.fft.rfft(frames * window, points, axis=-1)) ** 2
    total = power[..., : top + 1].sum(-1)
    score = power[..., : top + 1] @ members
    best = score.argmax(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        concentration = np.take_along_axis(score, best[..., None], -1)[..., 0] / total
        acf = scipy.fft.irfft(power, points, axis=-1)[..., : len(window_acf)]
        acf = acf / acf[..., :1] / window_acf
        similarity = np.take_along_axis(acf, lags[best], -1).max(-1)
        quality = concentration * np.clip(similarity, 0, 1)
    return np.nan_to_num(np.clip(quality, 0, 1), nan=0.0).astype(np.float32)


def ppg_quality(ppg: np.ndarray, *, rate_hz: float, band_high_hz: float) -> np.ndarray:
    """Quality of the best channel of each segment: the mean over its frames of 8 s.

    Args:
        ppg: [N, T, C] float32, band-passed.
        rate_hz: samples per second.
        band_high_hz: upper edge of the band-pass.

    Returns:
        [N] float32, 0 to 1; 0 for a flat signal.
    """
    count, samples, channels = ppg.shape
    rows = np.ascontiguousarray(np.moveaxis(ppg, 2, 1), dtype=np.float32).reshape(count * channels, samples)
    quality = np.empty(len(rows), np.float32)
    for at in range(0, len(rows), 64):  # small blocks stay in the processor's cache
        quality[at : at + 64] = frame_quality(rows[at : at + 64], rate_hz=rate_hz, band_high_hz=band_high_hz).mean(1)
    return quality.reshape(count, channels).max(1)


def accel_quality(accel: np.ndarray, *, rate_hz: float) -> np.ndarray:
    """Quality of the heartbeat in acceleration: `frame_quality` of the envelope at 4 to 12 Hz, the mean over frames of 8 s.

    Args:
        accel: [N, T, 3] float, in g.
        rate_hz: samples per second.

    Returns:
        [N] float32, 0 to 1; NaN if the rate is too low for the band.

    Source: band and envelope from Hernandez, McDuff and Picard, "BioWatch", PervasiveHealth 2015.
    """
    if rate_hz <= 2 * BEAT_BAND_HZ[1] or not len(accel):
        return np.full(len(accel), np.nan, np.float32)
    sos = scipy.signal.butter(2, BEAT_BAND_HZ, btype="bandpass", fs=rate_hz, output="sos")
    quality = np.empty(len(accel), np.float32)
    for at in range(0, len(accel), 64):
        moved = accel[at : at + 64] - accel[at : at + 64, :1]
        shaking = scipy.signal.sosfiltfilt(sos, moved, axis=1, padlen=min(round(rate_hz), accel.shape[1] - 1))
        envelope = np.sqrt((shaking**2).sum(axis=2))
        level = np.median(envelope, axis=1, keepdims=True)
        envelope = np.minimum(envelope, 3 * level)  # bursts of movement do not outweigh the rest of a frame
        envelope = envelope - scipy.ndimage.uniform_filter1d(envelope, round(TREND_S * rate_hz), axis=1)
        rows = np.ascontiguousarray(envelope, np.float32)
        quality[at : at + 64] = frame_quality(rows, rate_hz=rate_hz, band_high_hz=ENVELOPE_TOP_HZ).mean(1)
    return quality
