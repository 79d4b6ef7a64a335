"""Estimates how far the clocks of a recording's two sensors are apart, from the heartbeat that both show.

For each still minute the envelope of the acceleration is correlated with the slope of the PPG at many lags. A single minute cannot tell
a lag from a lag that is one beat longer. But intervals between beats change, so over many minutes only the true lag adds up. Offset
and drift are searched together: a drift of 100 ppm is 0.36 s in an hour.

An estimate counts as sure if its correlation beats that of its best rival, another offset or drift, by `SURE_Z` standard errors over
minutes. The lag of the PPG is not zero when the clocks agree, because the pulse wave needs time to the wrist, see `USUAL_LAG_S`.
"""

from typing import NamedTuple

import numpy as np
import scipy.fft
from scipy.ndimage import uniform_filter1d

SHAKE_HZ = (3.0, 10.0)
PULSE_HZ = (0.6, 8.0)
LEAST_MINUTES = 8
SURE_Z = 4.0
MOST_DRIFT_PPM = 200.0
LARGEST_S = 5.0
MOST_MINUTES = 300
STILL_G = 0.02
APART_S = 0.1
"""Clocks that agree better than this suffice for students with windows, see configs/README.md."""
USUAL_LAG_S = 0.13
"""Lag of the PPG where both sensors share a clock: 0.12 to 0.16 s in recordings of an EmbracePlus, 0.05 to 0.15 s on synthetic wrists."""
_BLOCK_S = 600.0
_STEP_S = 1.0 / 32.0
_LEVEL_S = 5.0
_CLIP_SD = 4.0
_RIVAL_S = 0.3
_MOST_TURN_S = 10.0  # largest shift by drift between the middle and an end of a recording
_AROUND_S = 0.25  # of an estimate, in which the lag of a block is searched
_LEAST_DRIFT_S = 3500.0  # in half an hour the drift is uncertain by 200 ppm, in an hour by 10


class ClockLag(NamedTuple):
    """Lag of the PPG behind the acceleration in a recording.

    Attributes:
        minutes: number of minutes that it is from.
        lag_s: lag in the middle between the first and the last of these minutes; NaN with less than `LEAST_MINUTES` minutes.
        drift_ppm: microseconds that the lag grows in a second; NaN if the minutes span less than an hour.
        spread_s: standard deviation of the lags of blocks of 10 minutes around the line of lag and drift; NaN with less than 3 blocks.
        z: mean advantage in correlation over the best rival, in standard errors over minutes.
    """

    minutes: int
    lag_s: float
    drift_ppm: float
    spread_s: float
    z: float

    @property
    def is_sure(self) -> bool:
        """True if no other offset or drift explains the minutes nearly as well."""
        return self.z >= SURE_Z


def clock_lag(ppg: np.ndarray, accel: np.ndarray, start_s: np.ndarray, *, rate_hz: float, largest_s: float) -> ClockLag:
    """Estimates the lag of the PPG behind the acceleration.

    Args:
        ppg: [N, T, C] float, still minutes of one recording, band-passed, systole up.
        accel: [N, T, 3] float, of the same times by its own clock, in g.
        start_s: [N] start of each minute.
        rate_hz: samples per second of both.
        largest_s: largest lag that is searched, in either direction; below half a minute's duration.
    """
    count = len(ppg)
    if count < LEAST_MINUTES:
        return ClockLag(count, *(np.nan,) * 4)
    middle = (float(start_s.min()) + float(start_s.max())) / 2
    half = max(float(np.ptp(start_s)) / 2, 1.0)
    place = (start_s - middle) / half  # -1 to 1
    turn_s = min(MOST_DRIFT_PPM * 1e-6 * half, _MOST_TURN_S) if 2 * half >= _LEAST_DRIFT_S else 0.0
    turns = np.arange(-round(turn_s / _STEP_S), round(turn_s / _STEP_S) + 1)
    reach, around = round(largest_s / _STEP_S), round(_AROUND_S / _STEP_S)
    fits = _correlations(ppg, accel, rate_hz, reach + int(turns[-1]) + around + 1)
    centre = fits.shape[1] // 2
    lags = np.arange(-reach, reach + 1)
    rows = np.arange(count)[:, None]

    def columns(turn: int, lag: np.ndarray) -> np.ndarray:
        return centre + lag + np.round(place * turn).astype(int)[:, None]

    totals = np.stack([fits[rows, columns(turn, lags)].sum(axis=0) for turn in turns.tolist()])
    best_turn, best = np.unravel_index(totals.argmax(), totals.shape)
    apart_mid = np.abs(lags - lags[best]) * _STEP_S
    apart_end = np.abs(turns - turns[best_turn]) * _STEP_S / 2
    rivals = np.where(np.maximum(apart_mid, apart_end[:, None]) > _RIVAL_S, totals, -np.inf)
    rival_turn, rival = np.unravel_index(rivals.argmax(), rivals.shape)
    ahead = (fits[rows, columns(turns[best_turn], lags[best])] - fits[rows, columns(turns[rival_turn], lags[rival])])[
        :, 0
    ]
    z = float(ahead.mean() / max(ahead.std(ddof=1) / np.sqrt(count), 1e-9))
    block = (start_s - start_s.min()) // _BLOCK_S
    lag, growth, spread = _fitted_line(fits, columns(turns[best_turn], lags[best])[:, 0], place, block)
    return ClockLag(count, lag, growth / half * 1e6 if len(turns) > 1 else np.nan, spread, z)


def still_lag(
    signals: tuple[np.ndarray, np.ndarray],
    start_s: np.ndarray,
    motion_g: np.ndarray,
    *,
    rate_hz: float,
    segment_s: float,
) -> tuple[ClockLag, np.ndarray]:
    """`clock_lag` of the still segments of a recording, at most `MOST_MINUTES` that are spread evenly.

    Args:
        signals: PPG [N, T, C] and acceleration [N, T, 3] of all its segments.
        start_s: [N] start of each segment, ascending.
        motion_g: [N] motion in each.
        rate_hz: samples per second of both signals.
        segment_s: duration of a segment.

    Returns:
        The estimate, and the rows that it is from.
    """
    rows = still_rows(motion_g, start_s, segment_s=segment_s)
    ppg, accel = (signal[rows] for signal in signals)
    largest_s = min(LARGEST_S, 0.4 * segment_s)
    return clock_lag(ppg, accel, start_s[rows], rate_hz=rate_hz, largest_s=largest_s), rows


def still_rows(motion_g: np.ndarray, start_s: np.ndarray, *, segment_s: float, most: int = MOST_MINUTES) -> np.ndarray:
    """Rows of still segments that do not overlap, at most so many, spread evenly; `start_s` ascends."""
    apart, end_s = [], -np.inf
    for row in np.flatnonzero(motion_g <= STILL_G).tolist():
        if start_s[row] >= end_s - 1e-3:  # overlapping segments would count the same beats twice
            apart.append(row)
            end_s = start_s[row] + segment_s
    rows = np.array(apart, np.int64)
    return rows[np.unique(np.linspace(0, len(rows) - 1, most).round().astype(int))] if len(rows) > most else rows


def _correlations(ppg: np.ndarray, accel: np.ndarray, rate_hz: float, reach: int) -> np.ndarray:
    """Correlation of each minute at the lags from -reach to reach, in steps of `_STEP_S`: [N, 2 * reach + 1] float32."""
    fits = []
    for pulse, shake in zip(ppg, accel, strict=True):
        late, early = (_levelled(curve, rate_hz) for curve in (_rise(pulse), _envelope(shake, rate_hz)))
        size = scipy.fft.next_fast_len(len(late) + reach, real=True)
        # The square root of the frequency in both curves: harmonics tell one beat from the next better than the pulse rate does.
        spectra = [scipy.fft.rfft(curve, size) * np.sqrt(np.arange(size // 2 + 1)) for curve in (late, early)]
        norms = [np.sqrt((np.abs(spectrum) ** 2).sum() * 2 / size) for spectrum in spectra]
        fit = scipy.fft.irfft(spectra[0] * np.conj(spectra[1]), size) / max(norms[0] * norms[1], 1e-12)
        fits.append(np.concatenate([fit[-reach:], fit[: reach + 1]]))
    return np.array(fits, np.float32)


def _rise(ppg: np.ndarray) -> np.ndarray:
    """Speed of the rise of a PPG [T, C], 0 where it falls, mean over channels of equal size: [T]."""
    centred = ppg - ppg.mean(axis=0)
    return np.maximum(np.gradient((centred / np.maximum(centred.std(axis=0), 1e-12)).mean(axis=1)), 0.0)


def _envelope(accel: np.ndarray, rate_hz: float) -> np.ndarray:
    """Length [T] of the acceleration [T, 3] in the band of the heartbeat, each axis scaled by its median and clipped."""
    spectrum = scipy.fft.rfft(accel - accel.mean(axis=0), axis=0)
    frequency = np.arange(len(spectrum)) * (rate_hz / len(accel))
    shake = scipy.fft.irfft(spectrum * _gain(frequency, SHAKE_HZ)[:, None], len(accel), axis=0)
    size = 1.4826 * np.median(np.abs(shake), axis=0) + 1e-6
    return np.linalg.norm(np.clip(shake / size, -_CLIP_SD, _CLIP_SD), axis=1)


def _levelled(curve: np.ndarray, rate_hz: float) -> np.ndarray:
    """A curve [T] in the band of the pulse and its harmonics, divided by its level in 5 s, in steps of `_STEP_S`."""
    steps = round(len(curve) / rate_hz / _STEP_S)
    spectrum = scipy.fft.rfft(curve)[: steps // 2 + 1]
    frequency = np.arange(len(spectrum)) * (rate_hz / len(curve))
    kept = scipy.fft.irfft(spectrum * _gain(frequency, PULSE_HZ), steps)
    power = kept**2
    level = uniform_filter1d(power, round(_LEVEL_S / _STEP_S)) + 1e-3 * power.mean()
    return kept / np.sqrt(np.maximum(level, 1e-30))


def _gain(frequency_hz: np.ndarray, band_hz: tuple[float, float]) -> np.ndarray:
    """Gain of a band-pass: 1 inside, 0.5 at the edges, 0 from 0.3 Hz beyond them."""
    low, high = band_hz
    return np.interp(frequency_hz, [low - 0.3, low + 0.3, high - 0.3, high + 0.3], [0, 1, 1, 0])


def _fitted_line(
    fits: np.ndarray, columns: np.ndarray, place: np.ndarray, block: np.ndarray
) -> tuple[float, float, float]:
    """Refines a line of lags by the best lag of each block near it.

    Args:
        fits: [N, L] result of `_correlations`.
        columns: [N] column of each minute on the line.
        place: [N] time of each minute, -1 to 1.
        block: [N] number of the block of each minute.

    Returns:
        Lag at place 0 and its growth from place 0 to 1, in s; standard deviation of the blocks' lags around the line, NaN with less
        than three blocks.
    """
    around = np.arange(-round(_AROUND_S / _STEP_S), round(_AROUND_S / _STEP_S) + 1)
    near = fits[np.arange(len(fits))[:, None], columns[:, None] + around]
    centre = fits.shape[1] // 2
    found = []
    for number in np.unique(block):
        rows = np.flatnonzero(block == number)
        total = near[rows].sum(axis=0)
        best = int(np.clip(total.argmax(), 1, len(total) - 2))
        before, at, after = total[best - 1 : best + 2]
        vertex = 0.5 * (before - after) / min(before - 2 * at + after, -1e-9)
        lag = columns[rows].mean() - centre + around[best] + np.clip(vertex, -1, 1)
        found.append((place[rows].mean(), lag * _STEP_S, len(rows)))
    places, lags, weights = np.array(found).T
    if len(found) < 3:
        return float(np.average(lags, weights=weights)), 0.0, np.nan
    slope, lag = np.polyfit(places, lags, 1, w=np.sqrt(weights))
    return float(lag), float(slope), float((lags - lag - slope * places).std(ddof=2))
