"""Settings of preprocessing: their defaults, ranges and units."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from accdistill_jax.errors import UserError

NO_PPG = "none"  # as the only entry of ppg_channels
MEASURED_ONLY = ("held_s", "held_coarse_s", "align_clocks")
_MOST = 1e5  # largest rate in Hz, and largest duration in seconds


@dataclasses.dataclass(frozen=True)
class PpgFilter:
    """Band-pass of a PPG; see `PreprocessSettings`.

    Attributes:
        band_hz: lower and upper edge, in Hz.
        order: of the Butterworth filter, which runs forwards and backwards.
    """

    band_hz: tuple[float, float] = (0.5, 8.0)
    order: int = 4

    @classmethod
    def named_in(cls, values: Mapping[str, Any]) -> "PpgFilter":
        """The filter that JSON values name as settings do; the default for what they do not name."""
        low, high = values.get("ppg_band_hz", cls.band_hz)
        return cls((float(low), float(high)), int(values.get("ppg_filter_order", cls.order)))

    @property
    def words(self) -> str:
        """Band and order in words."""
        low, high = self.band_hz
        return f"a Butterworth filter of order {self.order}, {low:g} to {high:g} Hz"

    def as_settings(self) -> dict[str, Any]:
        """Values of the settings ppg_band_hz and ppg_filter_order."""
        return {"ppg_band_hz": self.band_hz, "ppg_filter_order": self.order}


@dataclasses.dataclass(frozen=True)
class PreprocessSettings:
    """Settings of preprocessing. The cut-offs and thresholds are choices of this project, not of the paper.

    Attributes:
        rate_hz: rate of both signals of a segment, in Hz.
        segment_s: duration of a segment, in seconds.
        hop_s: distance between the starts of two segments, in seconds; they overlap if it is less than `segment_s`.
        ppg_band_hz: lower and upper edge of the PPG's band-pass, in Hz (Butterworth, run forwards and backwards: zero phase, half
            the amplitude at the edges).
        ppg_filter_order: order of the Butterworth filter (running it twice doubles its effect).
        max_motion_g: largest motion of a kept segment, in g (standard deviation of the acceleration within windows of 2 s); inf keeps all.
        min_ppg_quality: smallest PPG quality of a kept segment, 0 (no pulse) to 1 (regular pulse); 0 keeps all.
        max_clipped_fraction: largest fraction of samples at the end of the sensor's range; 1 keeps all.
        max_gap_s: largest number of missing seconds in a kept segment.
        gap_s: longer times between two samples, in seconds, are gaps (in slow streams only from 2.5 usual sample intervals on).
        held_s: a stream whose channels all stay constant for longer, in seconds, has a gap; inf allows it.
        held_coarse_s: the same for an accelerometer with steps above 5 mg, which can be constant at rest (E4: up to 26 s).
        min_beat_coverage: smallest fraction of a segment that clean beat intervals must cover to give labels.
        min_window_coverage: smallest fraction of a segment that reference windows must cover to give a heart rate.
        ppg_channels: names of the PPG channels to keep, in this order, or their numbers from 0; without it, all channels are kept;
            "none" leaves out the PPG.
        align_clocks: move the acceleration of a recording onto the clock of its PPG if the heartbeat in both surely shows that the
            clocks are more than 0.1 s apart (see align.py).

    Raises:
        UserError: a value is out of range.
    """

    rate_hz: float = 64.0
    segment_s: float = 60.0
    hop_s: float = 60.0
    ppg_band_hz: tuple[float, float] = PpgFilter.band_hz
    ppg_filter_order: int = PpgFilter.order
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
    align_clocks: bool = False

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
        if not isinstance(self.align_clocks, bool):
            raise UserError(f"preprocessing: align_clocks must be true or false, got {self.align_clocks!r}")
        if self.align_clocks and self.leaves_out_ppg:
            raise UserError("preprocessing: align_clocks compares the acceleration with the PPG; keep a PPG channel")
        for field in dataclasses.fields(self):
            if field.name in ("ppg_channels", "align_clocks"):
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
    def leaves_out_ppg(self) -> bool:
        """True if the PPG of recordings is left out."""
        return self.ppg_channels == (NO_PPG,)

    @property
    def samples(self) -> int:
        """Samples in a segment."""
        return round(self.segment_s * self.rate_hz)

    @property
    def hop_samples(self) -> int:
        """Samples from the start of a segment to the start of the next one."""
        return round(self.hop_s * self.rate_hz)

    def to_json(self, *, measured: bool = True) -> dict[str, object]:
        """Plain JSON values; an infinite threshold becomes the string "inf", and `align_clocks` is named only if it is set.

        Args:
            measured: False leaves out `MEASURED_ONLY`, the settings without effect on synthetic recordings.
        """
        values = {key: value for key, value in dataclasses.asdict(self).items() if measured or key not in MEASURED_ONLY}
        if not self.align_clocks:  # the stores of earlier commits keep their fingerprints
            values.pop("align_clocks", None)
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
        return {key: "inf" if value == math.inf else value for key, value in values.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "PreprocessSettings":
        """Settings from the values of `to_json`; a setting that is missing has its default.

        Raises:
            UserError: an unknown setting, or a value out of range.
        """
        unknown = sorted(values.keys() - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise UserError(f"preprocessing: unknown setting {unknown[0]!r}; update accdistill_jax")
        settings: dict[str, Any] = {}
        for key, value in values.items():
            settings[key] = tuple(value) if isinstance(value, list) else math.inf if value == "inf" else value
        return cls(**settings)
