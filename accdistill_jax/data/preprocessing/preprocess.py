"""From a recording to segments: align, resample, band-pass, cut, label, judge, select.

`preprocess` does it for any `Recording`; `bandpass` and `finish_segments` are its second half on stacked segments, which the
synthetic generator shares, so that made and measured segments pass the same filter, labels and selection.

Every segment that is cut is either kept or rejected for exactly one reason, the first that applies of `REASONS`:

- too_short: the recording's common stretch holds no whole segment (counted as one segment);
- gap: more than `max_gap_s` seconds of PPG or acceleration are missing, or held as by a sensor that dropped out (`dropouts`);
- flat: all samples of the PPG, or of the acceleration, are the same: a sensor that is off or stuck;
- clipped: more than `max_clipped_fraction` of the PPG's or the acceleration's samples lie at the end of the sensor's range;
- motion: `motion_g` above `max_motion_g`;
- quality: `ppg_quality` below `min_ppg_quality`.
"""

import dataclasses
import difflib
import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import scipy.signal

from accdistill_jax.data.preprocessing import dropouts
from accdistill_jax.data.preprocessing import hrv as hrv_lib
from accdistill_jax.data.preprocessing import polarity as polarity_lib
from accdistill_jax.data.preprocessing import quality as quality_lib
from accdistill_jax.data.preprocessing.packets import spread_packets
from accdistill_jax.data.preprocessing.plausibility import check_units, unlabelled
from accdistill_jax.data.preprocessing.resample import common_grid, fraction_clipped, is_flat, to_grid
from accdistill_jax.data.recording import Beats, Participant, Recording, Stream, named
from accdistill_jax.errors import UserError

LABELS = ("hr_bpm", "sdnn_ms", "rmssd_ms", "resp_bpm")
REASONS = ("too_short", "gap", "flat", "clipped", "motion", "quality")
MEASURED_ONLY = ("held_s", "held_coarse_s")
_MOST = 1e5  # Hz and seconds


@dataclasses.dataclass(frozen=True)
class PreprocessSettings:
    """Settings of preprocessing. The cut-offs and thresholds are choices of this project, not the paper's.

    Attributes:
        rate_hz: rate of the segments, both streams.
        segment_s: duration of a segment.
        hop_s: distance between the starts of two segments; less than `segment_s` makes them overlap.
        ppg_band_hz: edges of the PPG's band-pass (Butterworth, run forwards and backwards: zero phase, half amplitude there).
        ppg_filter_order: order of the Butterworth prototype (its effect doubles by running twice).
        max_motion_g: most motion (see quality.motion_g); inf keeps all.
        min_ppg_quality: least PPG quality (see quality.ppg_quality); 0 keeps all.
        max_clipped_fraction: most samples at the end of the sensor's range, as a fraction; 1 keeps all.
        max_gap_s: most seconds missing in a segment.
        gap_s: a distance between two time stamps above this is a gap (at least 2.5 usual distances, for slow streams).
        held_s: all channels of a stream holding their values for longer is a gap; inf lets them.
        held_coarse_s: the same for an accelerometer with steps above 5 mg, which may hold at rest (E4: up to 26 s).
        min_beat_coverage: least share of a segment covered by clean beat intervals for labels from beats.
        min_window_coverage: least share of a segment covered by reference windows for heart rate from windows.
        ppg_channels: the PPG channels to keep, in this order: their names, or their numbers from 0; without any, all.
    """

    rate_hz: float = 64.0
    segment_s: float = 60.0
    hop_s: float = 60.0
    ppg_band_hz: tuple[float, float] = (0.5, 8.0)
    ppg_filter_order: int = 4
    max_motion_g: float = 0.1
    min_ppg_quality: float = 0.4
    max_clipped_fraction: float = 0.01
    max_gap_s: float = 1.0
    gap_s: float = 0.25
    held_s: float = 2.0
    held_coarse_s: float = 30.0
    min_beat_coverage: float = 0.5
    min_window_coverage: float = 0.5
    ppg_channels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        low, high = (float(edge) for edge in self.ppg_band_hz)
        object.__setattr__(self, "ppg_band_hz", (low, high))
        if not isinstance(self.ppg_channels, list | tuple):
            raise UserError(
                f"preprocessing: ppg_channels must be a list of names or numbers, got {self.ppg_channels!r}"
            )
        object.__setattr__(self, "ppg_channels", tuple(map(str, self.ppg_channels)))
        if len(set(self.ppg_channels)) < len(self.ppg_channels) or "" in self.ppg_channels:
            raise UserError(f"preprocessing: ppg_channels must name each channel once, got {list(self.ppg_channels)}")
        for field in dataclasses.fields(self):
            if field.name == "ppg_channels":
                continue
            value = getattr(self, field.name)
            values = value if isinstance(value, tuple) else (value,)
            if any(not isinstance(v, int | float) or isinstance(v, bool) or math.isnan(v) for v in values):
                raise UserError(f"preprocessing: {field.name} must be a number, got {value!r}")
        for name in ("rate_hz", "segment_s", "hop_s"):
            if abs(getattr(self, name)) > _MOST:
                raise UserError(f"preprocessing: {name} must be at most {_MOST:g}, got {getattr(self, name)}")
        checks = (
            ("rate_hz", self.rate_hz > 0, "must be positive"),
            ("segment_s", self.segment_s > 0, "must be positive"),
            (
                "segment_s",
                abs(self.segment_s * self.rate_hz - self.samples) < 1e-6,
                "times rate_hz must be a whole number of samples",
            ),
            (
                "hop_s",
                self.hop_s > 0 and abs(self.hop_s * self.rate_hz - self.hop_samples) < 1e-6,
                "must be positive and, times rate_hz, a whole number of samples",
            ),
            ("ppg_band_hz", 0 < low < high < self.rate_hz / 2, "must be (low, high) with 0 < low < high < rate_hz / 2"),
            ("ppg_filter_order", self.ppg_filter_order in range(1, 11), "must be a whole number from 1 to 10"),
            ("max_motion_g", self.max_motion_g >= 0, "must not be negative"),
            ("min_ppg_quality", 0 <= self.min_ppg_quality <= 1, "must be within 0 to 1"),
            ("max_clipped_fraction", 0 <= self.max_clipped_fraction <= 1, "must be within 0 to 1"),
            ("max_gap_s", self.max_gap_s >= 0, "must not be negative"),
            ("gap_s", self.gap_s > 0, "must be positive"),
            ("held_s", self.held_s > 0, "must be positive"),
            ("held_coarse_s", self.held_coarse_s > 0, "must be positive"),
            ("min_beat_coverage", 0 <= self.min_beat_coverage <= 1, "must be within 0 to 1"),
            ("min_window_coverage", 0 <= self.min_window_coverage <= 1, "must be within 0 to 1"),
        )
        for name, good, rule in checks:
            if not good:
                raise UserError(f"preprocessing: {name} {rule}, got {getattr(self, name)}")

    @property
    def samples(self) -> int:
        """Samples in a segment."""
        return round(self.segment_s * self.rate_hz)

    @property
    def hop_samples(self) -> int:
        """Samples from one segment's start to the next's."""
        return round(self.hop_s * self.rate_hz)

    def to_json(self, *, measured: bool = True) -> dict[str, object]:
        """Plain JSON values; an infinite threshold becomes the string "inf".

        Args:
            measured: whether for measured recordings; made ones have no use for `MEASURED_ONLY`, which are left out.
        """
        values = {key: value for key, value in dataclasses.asdict(self).items() if measured or key not in MEASURED_ONLY}
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
        return {key: "inf" if value == math.inf else value for key, value in values.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, object]) -> "PreprocessSettings":
        """The inverse of `to_json`; keys left out take their defaults.

        Raises:
            UserError: an unknown key (names the nearest) or a bad value.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
                raise UserError(f"preprocessing: no setting is called {key!r}; did you mean {near!r}?")
        values = {key: math.inf if value == "inf" else value for key, value in values.items()}
        if "ppg_band_hz" in values:
            band = values["ppg_band_hz"]
            if not isinstance(band, list | tuple) or len(band) != 2:
                raise UserError(f"preprocessing: ppg_band_hz must be two numbers, got {band!r}")
            values["ppg_band_hz"] = tuple(band)
        return cls(**values)


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


def preprocess(recording: Recording, settings: PreprocessSettings, *, polarity: str | None = None) -> SegmentBatch:
    """Aligns, resamples, filters and cuts a recording, then `finish_segments`.

    The grid begins at the PPG's first sample within the stretch that both streams cover (so that only the acceleration is ever
    shifted by part of a sample) and ends where the first of them ends. Filters run over interpolated gaps; segments
    with more than `max_gap_s` of them are rejected. What is left over at the end, shorter than a segment, is not a segment.

    Args:
        recording: with the streams ppg and accel.
        settings: filter and thresholds.
        polarity: systole_up or systole_down, of a PPG whose polarity is not declared; without it, its own frames decide.

    Raises:
        UserError: a stream or a channel asked for is missing, the two streams never overlap, one lasts too long, samples share
            time stamps and their own are not certain (`packets`), or numbers are of no unit that they can be of (`plausibility`);
            names the recording.
    """
    with named(f"recording {recording.recording_id!r}"):
        for name in ("ppg", "accel"):
            if name not in recording.streams:
                raise UserError(f"has no stream {name!r}, only {', '.join(recording.streams) or 'none'}")
        spread = {name: spread_packets(recording.streams[name]) for name in ("ppg", "accel")}
        recording = dataclasses.replace(
            recording, streams={**recording.streams, **{name: s.stream for name, s in spread.items()}}
        )
        ppg, accel = _chosen_channels(recording.streams["ppg"], settings), recording.streams["accel"]
        start, count = common_grid(ppg, accel, settings.rate_hz)
        notes = check_units(recording) | {f"{name}_stamps": s.note for name, s in spread.items() if s.note}
        if recording.heart_rate is not None and recording.heart_rate.note:
            notes["heart_rate"] = recording.heart_rate.note
        on_grid = functools.partial(to_grid, start_s=start, count=count, rate_hz=settings.rate_hz, gap_s=settings.gap_s)
        segments = (count - settings.samples) // settings.hop_samples + 1 if count >= settings.samples else 0
        first = np.arange(segments) * settings.hop_samples
        start_s = start + first / settings.rate_hz
        flat = is_flat(ppg, start_s, settings.segment_s) | is_flat(accel, start_s, settings.segment_s)
        if segments:
            held = {
                stream.name: dropouts.held_samples(stream, held_s=settings.held_s, held_coarse_s=settings.held_coarse_s)
                for stream in (ppg, accel)
            }
            wave, ppg_missing = on_grid(dropouts.without(ppg, held["ppg"]))
            motion, accel_missing = on_grid(dropouts.without(accel, held["accel"]))
            wave = bandpass(wave - np.median(wave, axis=0), axis=0, settings=settings)
            missing = ppg_missing | accel_missing
            vote = _vote(wave, motion, missing, recording, settings, polarity)
            wave = -wave if vote.applied == "systole_down" else wave
            notes |= {"ppg_polarity": polarity_lib.described(vote), "ppg_votes": dataclasses.asdict(vote)}
            notes |= _held_note((ppg, accel), held)
            index = first[:, None] + np.arange(settings.samples)
            gap_s = missing[index].sum(1) / settings.rate_hz
            if flat.any():  # a sensor that is off for the whole segment is flat, and not full of dropouts
                dropped = np.any(
                    [
                        dropouts.mask_on_grid(
                            stream, held[stream.name], start_s=start, count=count, rate_hz=settings.rate_hz
                        )
                        for stream in (ppg, accel)
                    ],
                    axis=0,
                )
                gap_s = np.where(flat, (missing & ~dropped)[index].sum(1) / settings.rate_hz, gap_s)
            wave, motion = wave[index], motion[index]
        else:
            wave = np.zeros((0, settings.samples, len(ppg.channels)), np.float32)
            motion, gap_s = np.zeros((0, settings.samples, 3), np.float32), np.zeros(0)
        batch = finish_segments(
            wave,
            motion,
            settings=settings,
            participant=recording.participant,
            device=recording.device,
            recording_id=recording.recording_id,
            start_unix_s=recording.start_unix_s + start_s,
            beats=hrv_lib.beats_of_segments(recording.beats, start_s, settings.segment_s),
            window_hr_bpm=hrv_lib.window_heart_rate(
                recording.heart_rate, start_s, settings.segment_s, min_coverage=settings.min_window_coverage
            ),
            gap_s=gap_s,
            flat=flat,
            ppg_clipped=fraction_clipped(ppg, start_s, settings.segment_s),
            accel_clipped=fraction_clipped(accel, start_s, settings.segment_s),
        )
    batch.notes.update(unlabelled(recording, batch.columns["hr_bpm"]) | notes)
    batch.mended_stamps = {name: s.mended for name, s in spread.items() if s.mended}
    batch.ppg_channels = ppg.channels
    if not segments:
        batch.examined, batch.rejected["too_short"] = 1, 1
    return batch


def _chosen_channels(ppg: Stream, settings: PreprocessSettings) -> Stream:
    """The stream with the channels that the settings name, in their order."""
    if not settings.ppg_channels:
        return ppg
    places = {str(number): number for number in range(len(ppg.channels))}
    places |= {name: number for number, name in enumerate(ppg.channels)}  # a name counts before a number
    for wanted in settings.ppg_channels:
        if wanted not in places:
            raise UserError(
                f"has no PPG channel {wanted!r}; its channels are {', '.join(ppg.channels)} "
                f"(or by number, from 0 to {len(ppg.channels) - 1})"
            )
    chosen = [places[wanted] for wanted in settings.ppg_channels]
    return dataclasses.replace(
        ppg, values=ppg.values[:, chosen], channels=tuple(ppg.channels[number] for number in chosen)
    )


def _vote(
    wave: np.ndarray,
    motion: np.ndarray,
    missing: np.ndarray,
    recording: Recording,
    settings: PreprocessSettings,
    polarity: str | None,
) -> polarity_lib.Vote:
    frames, up = polarity_lib.count_votes(
        wave, motion, missing, rate_hz=settings.rate_hz, band_high_hz=settings.ppg_band_hz[1]
    )
    declared = recording.streams["ppg"].polarity
    applied = polarity_lib.first_choice(declared, frames, up)
    return polarity_lib.Vote(
        recording.device, declared, applied if declared != "unknown" else polarity or applied, frames, up
    )


def _held_note(streams: Sequence[Stream], held: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    lost = {
        stream.name: round(dropouts.seconds(stream, held[stream.name]), 3)
        for stream in streams
        if held[stream.name].any()
    }
    return {"held_s": lost} if lost else {}
