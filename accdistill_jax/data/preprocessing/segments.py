"""From cut segments to kept segments: band-pass, labels, quality and selection.

Recordings and the synthetic generator share this code, so measured and synthetic segments pass the same filter, labels and
selection.

Every segment is either kept, or rejected for exactly one reason: the first of `REASONS` that applies.

- too_short: the recording, or the overlap of PPG and acceleration, is shorter than a segment (counted as one segment);
- gap: more than `max_gap_s` seconds of PPG or acceleration are missing, or held constant by a dropout (`dropouts`);
- flat: all samples of the PPG, or of the acceleration, are equal: the sensor is off or stuck;
- clipped: more than `max_clipped_fraction` of the samples of PPG or acceleration lie at the end of the sensor's range;
- motion: `motion_g` is above `max_motion_g`;
- quality: `ppg_quality` is below `min_ppg_quality`.

Without PPG its array has no channels, and no column describes it.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import scipy  # its parts are imported by their first use: scipy.signal takes a second

from accdistill_jax.data.preprocessing import hrv as hrv_lib
from accdistill_jax.data.preprocessing import quality as quality_lib
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.recording import Beats, Participant
from accdistill_jax.labels import HEART_RATE, LABELS

REASONS = ("too_short", "gap", "flat", "clipped", "motion", "quality")


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where N segments come from.

    Attributes:
        participant: who wore the device.
        device: name of the device.
        recording_id: one id for all segments.
        start_unix_s: [N] float64, when each segment starts, in unix seconds.
    """

    participant: Participant
    device: str
    recording_id: str
    start_unix_s: np.ndarray


@dataclasses.dataclass(frozen=True)
class References:
    """Reference measurements of N segments, from which their labels are made; None where there are none.

    Attributes:
        beats: N lists of beat intervals, times in seconds after the segment's start.
        window_hr_bpm: [N] heart rate of a reference device, used where the beats give none; NaN where unknown.
        labels: name in `LABELS` -> [N] values measured by the source, for example resp_bpm; NaN where unknown.
        own_labels: column -> [N] values of a user's labels, see `window_labels`.
    """

    beats: Sequence[Beats | None] | None = None
    window_hr_bpm: np.ndarray | None = None
    labels: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    own_labels: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Faults:
    """Faults of N segments that show only in the samples of the sensor; None where there are none.

    Attributes:
        gap_s: [N] missing seconds.
        flat: [N] bool, flat before the filter; segments that are flat after it are found without this.
        ppg_clipped: [N] fraction of PPG samples at the end of the sensor's range.
        accel_clipped: [N] fraction of acceleration samples at the end of the sensor's range.
    """

    gap_s: np.ndarray | None = None
    flat: np.ndarray | None = None
    ppg_clipped: np.ndarray | None = None
    accel_clipped: np.ndarray | None = None


@dataclasses.dataclass
class SegmentBatch:
    """The kept segments of one recording (or of one synthetic participant), and counts of the rejected ones.

    Attributes:
        ppg: [N, T, C] float32, band-passed, systole up, in the unit of the recording; C = 0 without PPG.
        accel: [N, T, 3] float32, in g.
        columns: one value per kept segment: participant, recording, device, hr_source ("beats", "windows" or "") as
            str; start_unix_s as float64; `LABELS` (NaN where unknown), beat_coverage, motion_g, ppg_quality (accel_quality
            without PPG), ppg_clipped, accel_clipped (fractions) and gap_s as float32; a user's labels as label_NAME.
        participant: who wore the device.
        examined: number of segments examined: the kept ones plus the sum of `rejected`.
        rejected: number of rejected segments for each of `REASONS`.
        notes: decisions and findings about the recording, as JSON values: ppg_polarity (text), ppg_votes (`polarity.Vote`),
            held_s, sensors (`sensors.measured_sensors`), clocks (`align`), heart_rate, accel_axes, references, short_labels,
            coverage, ppg_stamps and accel_stamps (`packets.TimedStream`).
        mended_stamps: by stream, how many samples shared a time stamp and were therefore moved, averaged or dropped.
        ppg_channels: names of the PPG channels; an empty tuple stands for ppg0, ppg1 ...
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
    return np.asarray(scipy.signal.butter(order, band_hz, btype="bandpass", fs=rate_hz, output="sos"))


def bandpass(ppg: np.ndarray, *, axis: int, settings: PreprocessSettings) -> np.ndarray:
    """Band-passes without phase shift: a Butterworth filter runs forwards and backwards (scipy's sosfiltfilt).

    Args:
        ppg: float array of any shape, at `settings.rate_hz`, without NaN.
        axis: the axis of time, at least two samples long.
        settings: band edges and filter order.

    Returns:
        float32 array of the same shape.
    """
    sos = _filter(settings.rate_hz, settings.ppg_band_hz, settings.ppg_filter_order)
    padding = min(3 * round(settings.rate_hz / settings.ppg_band_hz[0]), ppg.shape[axis] - 1)
    filtered: np.ndarray = scipy.signal.sosfiltfilt(sos, ppg, axis=axis, padlen=padding)
    return filtered.astype(np.float32)


def measured_labels(from_beats: hrv_lib.Hrv, window_hr_bpm: np.ndarray) -> dict[str, np.ndarray]:
    """Labels that follow from heart beats or from a reference heart rate.

    Args:
        from_beats: of N segments.
        window_hr_bpm: [N] heart rate of a reference device, used where the beats give none; NaN where unknown.

    Returns:
        Name in `LABELS` -> [N] float32; NaN where unknown.
    """
    return {
        HEART_RATE: np.where(np.isfinite(from_beats.hr_bpm), from_beats.hr_bpm, window_hr_bpm),
        "sdnn_ms": from_beats.sdnn_ms,
        "rmssd_ms": from_beats.rmssd_ms,
    }


def finish_segments(
    ppg: np.ndarray,
    accel: np.ndarray,
    *,
    settings: PreprocessSettings,
    origin: Origin,
    references: References | None = None,
    faults: Faults | None = None,
) -> SegmentBatch:
    """Labels segments, measures their quality and selects them.

    Args:
        ppg: [N, T, C] float32, band-passed, systole up; C = 0 without PPG.
        accel: [N, T, 3] float32, in g.
        settings: thresholds; `settings.samples` must be T.
        origin: participant, device, recording and start times, stored with every segment.
        references: measurements to label the segments with; all labels are NaN without them.
        faults: faults found before the segments were cut.

    Returns:
        The accepted segments, in order; the input arrays themselves if all are accepted.

    Raises:
        ValueError: shapes that disagree.
    """
    references, faults = references or References(), faults or Faults()
    count = len(ppg)
    if ppg.shape[1] != settings.samples or accel.shape != (count, settings.samples, 3):
        raise ValueError(f"ppg {ppg.shape} and accel {accel.shape} are not [{count}, {settings.samples}, channels]")

    def per_segment(values: np.ndarray | None, default: float) -> np.ndarray:
        values = np.full(count, default) if values is None else np.asarray(values)
        if values.shape != (count,):
            raise ValueError(f"expected one value per segment, got shape {values.shape} for {count} segments")
        return values.astype(np.float32)

    from_beats = hrv_lib.hrv(
        references.beats if references.beats is not None else [None] * count,
        segment_s=settings.segment_s,
        min_coverage=settings.min_beat_coverage,
    )
    by_window = per_segment(references.window_hr_bpm, math.nan)
    hr_source = np.where(np.isfinite(from_beats.hr_bpm), "beats", np.where(np.isfinite(by_window), "windows", ""))
    known = measured_labels(from_beats, by_window) | dict(references.labels)
    columns = {
        "participant": np.full(count, origin.participant.participant_id),
        "recording": np.full(count, origin.recording_id),
        "device": np.full(count, origin.device),
        "start_unix_s": np.asarray(origin.start_unix_s, dtype=np.float64),
        **{name: per_segment(known.get(name), math.nan) for name in LABELS},
        "hr_source": hr_source,
        "beat_coverage": from_beats.coverage,
        "motion_g": quality_lib.motion_g(accel, rate_hz=settings.rate_hz),
    }
    flat = (columns["motion_g"] == 0) | (per_segment(faults.flat, 0.0) > 0)
    quality = np.ones(count, np.float32)
    if ppg.shape[2]:
        quality = quality_lib.ppg_quality(ppg, rate_hz=settings.rate_hz, band_high_hz=settings.ppg_band_hz[1])
        columns |= {"ppg_quality": quality, "ppg_clipped": per_segment(faults.ppg_clipped, 0.0)}
        power = np.einsum("ntc,ntc->nc", ppg, ppg).max(1)
        flat |= power <= 1e-12 * power.max(initial=0)
    else:
        columns["accel_quality"] = quality_lib.accel_quality(accel, rate_hz=settings.rate_hz)
    columns |= {"accel_clipped": per_segment(faults.accel_clipped, 0.0), "gap_s": per_segment(faults.gap_s, 0.0)}
    columns |= references.own_labels
    clipped = np.maximum(columns.get("ppg_clipped", 0.0), columns["accel_clipped"])
    failing_by_reason = {
        "gap": columns["gap_s"] > settings.max_gap_s,
        "flat": flat,
        "clipped": clipped > settings.max_clipped_fraction,
        "motion": columns["motion_g"] > settings.max_motion_g,
        "quality": quality < settings.min_ppg_quality,
    }
    kept = np.ones(count, bool)
    rejected = dict.fromkeys(REASONS, 0)
    for reason, failing in failing_by_reason.items():
        rejected[reason] = int((kept & failing).sum())
        kept &= ~failing
    if not kept.all():
        ppg, accel = ppg[kept], accel[kept]
        columns = {name: values[kept] for name, values in columns.items()}
    return SegmentBatch(
        ppg=np.ascontiguousarray(ppg, np.float32),
        accel=np.ascontiguousarray(accel, np.float32),
        columns=columns,
        participant=origin.participant,
        examined=count,
        rejected=rejected,
    )
