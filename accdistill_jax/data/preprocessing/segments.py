"""From cut segments to kept segments: band-pass, labels, quality and selection.

Recordings and the synthetic generator share it, so that made and measured segments pass the same filter, labels and selection.

Every segment that is cut is either kept or rejected for exactly one reason, the first that applies of `REASONS`:

- too_short: the recording's common stretch holds no whole segment (counted as one segment);
- gap: more than `max_gap_s` seconds of PPG or acceleration are missing, or held as by a sensor that dropped out (`dropouts`);
- flat: all samples of the PPG, or of the acceleration, are the same: a sensor that is off or stuck;
- clipped: more than `max_clipped_fraction` of the PPG's or the acceleration's samples lie at the end of the sensor's range;
- motion: `motion_g` above `max_motion_g`;
- quality: `ppg_quality` below `min_ppg_quality`.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
import scipy.signal

from accdistill_jax.data.preprocessing import hrv as hrv_lib
from accdistill_jax.data.preprocessing import quality as quality_lib
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.recording import Beats, Participant

LABELS = ("hr_bpm", "sdnn_ms", "rmssd_ms", "resp_bpm")
REASONS = ("too_short", "gap", "flat", "clipped", "motion", "quality")


@dataclasses.dataclass
class SegmentBatch:
    """The kept segments of one recording (or of one synthetic participant) and the account of the others.

    Attributes:
        ppg: [N, T, C] float32, band-passed, systole up, in the unit of the recording.
        accel: [N, T, 3] float32, in g.
        columns: one value per kept segment: participant, recording, device, hr_source ("beats", "windows" or "") as
            str; start_unix_s float64; hr_bpm, sdnn_ms, rmssd_ms, resp_bpm (NaN unknown), beat_coverage, motion_g, ppg_quality,
            ppg_clipped, accel_clipped (fractions), gap_s as float32.
        participant: who it was.
        ppg_channels: their names; without any, they are called ppg0, ppg1 ...
        examined: segments looked at; always kept + sum of rejected.
        rejected: segments turned away by reason, every one of `REASONS`.
        mended_stamps: by stream, how many samples were given another time stamp, averaged or dropped because they shared one.
        notes: what was decided or found about the recording: ppg_polarity in words, ppg_votes (`polarity.Vote`), held_s, heart_rate,
            accel_axes, references, coverage, ppg_stamps and accel_stamps (`packets.Spread`), as JSON values.
    """

    ppg: np.ndarray
    accel: np.ndarray
    columns: dict[str, np.ndarray]
    participant: Participant
    examined: int
    rejected: dict[str, int]
    notes: dict[str, object] = dataclasses.field(default_factory=dict)
    mended_stamps: dict[str, int] = dataclasses.field(default_factory=dict)
    ppg_channels: tuple[str, ...] = ()


@functools.lru_cache(maxsize=8)
def _filter(rate_hz: float, band_hz: tuple[float, float], order: int) -> np.ndarray:
    return scipy.signal.butter(order, band_hz, btype="bandpass", fs=rate_hz, output="sos")


def bandpass(ppg: np.ndarray, *, axis: int, settings: PreprocessSettings) -> np.ndarray:
    """Band-pass without phase shift: a Butterworth filter run forwards and backwards (scipy's sosfiltfilt).

    Args:
        ppg: float array of any shape, at `settings.rate_hz`, without NaN.
        axis: the axis of time, at least two samples long.
        settings: band and order.

    Returns:
        float32, same shape.
    """
    sos = _filter(settings.rate_hz, settings.ppg_band_hz, settings.ppg_filter_order)
    padding = min(3 * round(settings.rate_hz / settings.ppg_band_hz[0]), ppg.shape[axis] - 1)
    return scipy.signal.sosfiltfilt(sos, ppg, axis=axis, padlen=padding).astype(np.float32)


def finish_segments(
    ppg: np.ndarray,
    accel: np.ndarray,
    *,
    settings: PreprocessSettings,
    participant: Participant,
    device: str,
    recording_id: str | Sequence[str],
    start_unix_s: np.ndarray,
    beats: Sequence[Beats | None] | None = None,
    window_hr_bpm: np.ndarray | None = None,
    resp_bpm: np.ndarray | None = None,
    gap_s: np.ndarray | None = None,
    flat: np.ndarray | None = None,
    ppg_clipped: np.ndarray | None = None,
    accel_clipped: np.ndarray | None = None,
) -> SegmentBatch:
    """Labels, quality and selection of cut segments.

    Args:
        ppg: [N, T, C] float32, band-passed, systole up.
        accel: [N, T, 3] float32, in g.
        settings: thresholds; `settings.samples` must be T.
        participant, device: written beside every segment.
        recording_id: one for all segments, or one each.
        start_unix_s: [N] float64, when each segment starts.
        beats: beat intervals of each segment, times in seconds after the segment's start.
        window_hr_bpm: [N] heart rate by a reference, used where beats give none; NaN unknown.
        resp_bpm: [N] respiration rate, breaths per minute; NaN unknown.
        gap_s: [N] seconds missing; 0 where not given.
        flat: [N] bool, known to be flat before filtering; besides, what is flat here is found.
        ppg_clipped, accel_clipped: [N] fraction of samples at the end of the range; 0 where not given.

    Returns:
        The accepted segments, in order; the input arrays themselves if all are accepted.
    """
    count = len(ppg)
    if ppg.shape[1] != settings.samples or accel.shape != (count, settings.samples, 3):
        raise ValueError(f"ppg {ppg.shape} and accel {accel.shape} are not [{count}, {settings.samples}, channels]")

    def given(values: np.ndarray | None, default: float) -> np.ndarray:
        values = np.full(count, default) if values is None else np.asarray(values)
        if values.shape != (count,):
            raise ValueError(f"expected one value per segment, got shape {values.shape} for {count} segments")
        return values.astype(np.float32)

    labels = hrv_lib.hrv(
        beats if beats is not None else [None] * count,
        segment_s=settings.segment_s,
        min_coverage=settings.min_beat_coverage,
    )
    by_window = given(window_hr_bpm, math.nan)
    from_beats = np.isfinite(labels.hr_bpm)
    hr_source = np.where(from_beats, "beats", np.where(np.isfinite(by_window), "windows", ""))
    columns = {
        "participant": np.full(count, participant.participant_id),
        "recording": np.broadcast_to(np.asarray(recording_id, dtype=str), (count,)),
        "device": np.full(count, device),
        "start_unix_s": np.asarray(start_unix_s, dtype=np.float64),
        "hr_bpm": np.where(from_beats, labels.hr_bpm, by_window),
        "sdnn_ms": labels.sdnn_ms,
        "rmssd_ms": labels.rmssd_ms,
        "resp_bpm": given(resp_bpm, math.nan),
        "hr_source": hr_source,
        "beat_coverage": labels.coverage,
        "motion_g": quality_lib.motion_g(accel, rate_hz=settings.rate_hz),
        "ppg_quality": quality_lib.ppg_quality(ppg, rate_hz=settings.rate_hz, band_high_hz=settings.ppg_band_hz[1]),
        "ppg_clipped": given(ppg_clipped, 0.0),
        "accel_clipped": given(accel_clipped, 0.0),
        "gap_s": given(gap_s, 0.0),
    }
    power = np.einsum("ntc,ntc->nc", ppg, ppg).max(1)
    dead = (power <= 1e-12 * power.max(initial=0)) | (columns["motion_g"] == 0) | (given(flat, 0.0) > 0)
    fails = {
        "gap": columns["gap_s"] > settings.max_gap_s,
        "flat": dead,
        "clipped": np.maximum(columns["ppg_clipped"], columns["accel_clipped"]) > settings.max_clipped_fraction,
        "motion": columns["motion_g"] > settings.max_motion_g,
        "quality": columns["ppg_quality"] < settings.min_ppg_quality,
    }
    left = np.ones(count, bool)
    rejected = dict.fromkeys(REASONS, 0)
    for reason, failing in fails.items():
        rejected[reason] = int((left & failing).sum())
        left &= ~failing
    if not left.all():
        ppg, accel = ppg[left], accel[left]
        columns = {name: values[left] for name, values in columns.items()}
    return SegmentBatch(
        ppg=np.ascontiguousarray(ppg, np.float32),
        accel=np.ascontiguousarray(accel, np.float32),
        columns=columns,
        participant=participant,
        examined=count,
        rejected=rejected,
    )
