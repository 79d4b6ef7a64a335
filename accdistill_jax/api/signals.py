"""Signals in arrays: checks that they are what an encoder reads, and cuts them into minutes by the code that prepares stores."""

import dataclasses
import math
import warnings
from collections import Counter
from typing import Literal, TypedDict

import numpy as np

from accdistill_jax.config.nearest import did_you_mean
from accdistill_jax.data.preprocessing.cut import CutRecording, cut
from accdistill_jax.data.preprocessing.plausibility import MOST_WITHOUT_GRAVITY, MOVING_G, REST_G, resting_g
from accdistill_jax.data.preprocessing.quality import BEAT_BAND_HZ, motion_g
from accdistill_jax.data.preprocessing.settings import PpgFilter, PreprocessSettings
from accdistill_jax.data.recording import G_PER_UNIT, POLARITIES, RATES_HZ, Participant, Polarity, Recording, Stream
from accdistill_jax.errors import SignalWarning, UserError

Gravity = Literal["included", "removed"]
_SPELLINGS = {"m/s^2": "m/s2", "m/s²": "m/s2", "m/s**2": "m/s2", "ms-2": "m/s2", "m s-2": "m/s2", "G": "g", "mG": "mg"}
_FEWEST_HZ = 2 * BEAT_BAND_HZ[1]
LARGEST = 1e15  # the sum of a minute's squares fits float32


@dataclasses.dataclass(frozen=True)
class InputContract:
    """The signal that an encoder reads.

    Attributes:
        part: "student" or "teacher", for messages.
        modality: "accel" or "ppg".
        rate_hz: sampling rate of a segment.
        samples: samples of a segment.
        channels: channels of a segment.
        ppg_filter: band-pass of the PPG, as in the stores that the encoder was trained on.
    """

    part: str
    modality: Literal["accel", "ppg"]
    rate_hz: float
    samples: int
    channels: int
    ppg_filter: PpgFilter = PpgFilter()

    @property
    def settings(self) -> PreprocessSettings:
        """The default preprocessing at the encoder's rate and length, with its band-pass of the PPG."""
        segment_s = self.samples / self.rate_hz
        filtered = self.ppg_filter.as_settings() if self.modality == "ppg" else {}
        return PreprocessSettings(rate_hz=self.rate_hz, segment_s=segment_s, hop_s=segment_s, **filtered)


class SignalWords(TypedDict, total=False):
    """The keywords by which a user describes a signal besides its rate; `SignalFormat` has their meanings and defaults."""

    unit: str | None
    gravity: Gravity
    polarity: Polarity


@dataclasses.dataclass(frozen=True)
class SignalFormat:
    """The user's description of a signal.

    Attributes:
        rate_hz: samples per second, any rate.
        unit: of acceleration: "g" (None), "mg" or "m/s2". PPG has an arbitrary unit, "a.u.".
        gravity: "included", or "removed" for the user or linear acceleration of phones. Students are trained with gravity.
        polarity: of PPG: "systole_up", "systole_down", or "unknown" to find it in the signal.
    """

    rate_hz: float
    unit: str | None = None
    gravity: Gravity = "included"
    polarity: Polarity = "unknown"


@dataclasses.dataclass(frozen=True)
class Minutes:
    """Minutes of signals, in order.

    Attributes:
        segments: [n, samples, channels] float32, in the encoder's unit, at its rate.
        problem: [n] str, the reason why a minute cannot be embedded: "gap" or "flat"; "" where it can.
    """

    segments: np.ndarray
    problem: np.ndarray


def nan_for_masked(signal: np.ndarray) -> np.ndarray:
    """The signal as an array; masked samples become NaN, since `numpy.asarray` would keep the number below the mask."""
    if isinstance(signal, np.ma.MaskedArray) and np.ma.is_masked(signal):
        return np.ma.filled(signal.astype(np.float64), np.nan)
    return np.asarray(signal)


def cut_signal(signal: np.ndarray, contract: InputContract, described: SignalFormat) -> Minutes:
    """Cuts a signal into minutes, resampled and filtered as in a store.

    Args:
        signal: [time, channels] or [batch, time, channels], real numbers; NaN or a mask marks missing samples.
        contract: of the encoder.
        described: rate, unit and more.

    Returns:
        All whole minutes: those of the first signal of the batch first.

    Raises:
        UserError: the signal is not what the encoder reads, is shorter than a minute, or has no usable minute; the message says what
            is wrong and what would fit. In a batch, a signal of NaN alone is no error: its minutes have the problem "gap".

    Warns:
        SignalWarning: some minutes cannot be embedded, or differ from those that encoders are trained on.
    """
    name, described = contract.modality, _checked_format(described, contract)
    values = _checked_values(signal, contract, described)
    settings = contract.settings
    missing = [bool(np.isnan(one).all()) for one in values]
    read = [k for k in range(len(values)) if not missing[k]] or [0]  # the error of the first one tells of NaN alone
    by_number = {k: _cut_one(values[k], _named(name, k, signal), contract, described, settings) for k in read}
    done = list(by_number.values())
    in_order = [by_number.get(k) or _of_nothing(done[0], name, settings) for k in range(len(values))]
    segments = done[0].segments[name] if len(values) == 1 else np.concatenate([one.segments[name] for one in in_order])
    gap_s = np.concatenate([one.gap_s for one in in_order])
    flat = np.concatenate([one.flat for one in in_order]) | (segments == segments[:, :1]).all(axis=(1, 2))
    problem = np.where(gap_s > settings.max_gap_s, "gap", np.where(flat, "flat", ""))
    if (problem != "").all():
        raise UserError(f"{name}: no minute can be embedded: {_counted(problem, settings)}")
    remarks = _remarks(segments[problem == ""], contract, described, settings)
    if (problem != "").any():
        count = f"{np.count_nonzero(problem)} of {len(problem)} minutes"
        remarks.insert(0, f"{count} cannot be embedded, their rows are NaN: {_counted(problem, settings)}")
    remarks += list(dict.fromkeys(str(one.notes["accel_axes"]) for one in done if "accel_axes" in one.notes))
    if remarks:
        warnings.warn(
            "; ".join([f"{name}: {remarks[0]}", *remarks[1:]]), SignalWarning, stacklevel=6
        )  # the caller of embed or predict
    return Minutes(segments, problem)


def _named(name: str, number: int, signal: np.ndarray) -> str:
    return f"{name}[{number}]" if np.ndim(signal) == 3 else name


def _of_nothing(like: CutRecording, name: str, settings: PreprocessSettings) -> CutRecording:
    """The minutes of a signal of the same length as another one, of which all samples are missing."""
    gap_s = np.full_like(like.gap_s, settings.segment_s)
    return dataclasses.replace(like, segments={name: np.zeros_like(like.segments[name])}, gap_s=gap_s, notes={})


def _cut_one(
    values: np.ndarray, name: str, contract: InputContract, described: SignalFormat, settings: PreprocessSettings
) -> CutRecording:
    accel = contract.modality == "accel"
    channels = ("x", "y", "z") if accel else tuple(f"ppg{number}" for number in range(contract.channels))
    scale = G_PER_UNIT[described.unit or "g"] if accel else 1.0
    try:
        stream = Stream(
            contract.modality,
            values if scale == 1.0 else values * np.float64(scale),
            channels,
            "g" if accel else "a.u.",
            rate_hz=float(described.rate_hz),
            polarity=None if accel else described.polarity,
            gravity=described.gravity,
            scale=scale,
        )
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    recording = Recording(name, Participant("unknown"), "unknown", "array", 0.0, {stream.name: stream})
    try:
        return cut(recording, settings, signals=(contract.modality,))
    except UserError as error:
        raise UserError(f"{name}: {(accel and _wrong_level(stream, contract, described)) or error}") from None


def _checked_format(described: SignalFormat, contract: InputContract) -> SignalFormat:
    """The format with the usual spelling of its unit; raises UserError for values that mean nothing."""
    rate, number = described.rate_hz, isinstance(described.rate_hz, int | float | np.integer | np.floating)
    if not number or isinstance(rate, bool) or not math.isfinite(rate) or rate <= 0:
        raise UserError(f"rate_hz = {rate!r} must be a positive number: samples per second")
    if not RATES_HZ[0] <= rate <= RATES_HZ[1]:
        hint = f"; if samples are {rate:g} s apart, give rate_hz={1 / rate:.6g}" if rate < RATES_HZ[0] else ""
        raise UserError(f"rate_hz = {rate:g} is outside {RATES_HZ[0]:g} to {RATES_HZ[1]:g} Hz{hint}")
    if contract.modality == "accel":
        unit = (
            "g" if described.unit is None else _SPELLINGS.get(str(described.unit).strip(), str(described.unit).strip())
        )
        if unit not in G_PER_UNIT:
            raise UserError(
                f'unit = {described.unit!r} is unknown; give "g", "mg" or "m/s2" (divide counts by the counts per g first)'
            )
        if described.gravity not in ("included", "removed"):
            raise UserError(f'gravity = {described.gravity!r} must be "included" or "removed"')
        if described.polarity != "unknown":
            raise UserError(f"polarity = {described.polarity!r}: acceleration has none; leave it out")
        return dataclasses.replace(described, unit=unit)
    if described.unit not in (None, "a.u."):
        raise UserError(
            f'unit = {described.unit!r}: the {contract.part} reads PPG, which is in "a.u."; leave out the unit'
        )
    if described.gravity != "included":
        raise UserError(f"gravity = {described.gravity!r}: the {contract.part} reads PPG; leave it out")
    if described.polarity not in POLARITIES:
        near = did_you_mean(str(described.polarity), POLARITIES)
        raise UserError(f"polarity = {described.polarity!r} must be one of {', '.join(POLARITIES)}{near}")
    return described


def _checked_values(signal: np.ndarray, contract: InputContract, described: SignalFormat) -> np.ndarray:
    """The signal as [batch, time, channels]; raises UserError for another shape, type or a length below a minute."""
    name, channels, rate = contract.modality, contract.channels, float(described.rate_hz)
    wanted = f"[time, {channels}] or [batch, time, {channels}]"
    try:
        values = nan_for_masked(signal)
    except ValueError:
        raise UserError(f"{name} is a sequence of unequal parts; give an array {wanted}") from None
    if values.dtype.kind not in "fiu":
        hint = f"the {contract.part} reads real numbers in an array {wanted}"
        raise UserError(f"{name} has dtype {values.dtype}; {hint}")
    if channels == 1 and values.ndim == 1:
        values = values[:, None]
    if values.ndim not in (2, 3) or values.shape[-1] != channels:
        raise UserError(
            f"{name} has shape {list(values.shape)}; the {contract.part} reads {wanted}{_shape_hint(values, channels)}"
        )
    if not values.size:
        raise UserError(f"{name} has shape {list(values.shape)}: it is empty")
    if values.dtype.kind == "f" and np.isinf(values).any():
        raise UserError(f"{name} has infinite values; write NaN for missing samples")
    refuse_huge(name, values)
    segment_s, count = contract.samples / contract.rate_hz, values.shape[-2]
    if round(count / rate * contract.rate_hz, 6) < contract.samples:
        raise UserError(
            f"{name} lasts {count / rate:.4g} s ({count} samples at {rate:g} Hz), but a row needs {segment_s:g} s; "
            "give a longer signal, or the right rate_hz"
        )
    return values[None] if values.ndim == 2 else values


def refuse_huge(name: str, values: np.ndarray) -> None:
    """Raises UserError for numbers that no sensor gives, whose squares are beyond float32; NaN does not count."""
    huge = np.abs(values) > np.float32(LARGEST) if values.dtype.kind == "f" else np.zeros(1, bool)
    if huge.any():
        raise UserError(
            f"{name} has values up to {np.nanmax(np.abs(values)):.3g}, which no sensor gives; write NaN for wrong samples, or check "
            "type and byte order"
        )


def _shape_hint(values: np.ndarray, channels: int) -> str:
    if values.ndim in (2, 3) and values.shape[-2] == channels:
        return "; its axes are the other way round: give numpy.swapaxes(signal, -1, -2)"
    if values.ndim in (2, 3) and values.shape[-1] == channels + 1:
        return "; leave out the column of time stamps"
    if channels == 3 and (values.ndim == 1 or values.shape[-1] == 1):
        return "; the length of the vector is not enough, give its three axes"
    if values.ndim in (2, 3) and channels > 1:
        return f"; give its {channels} channels"
    return ""


def _wrong_level(accel: Stream, contract: InputContract, described: SignalFormat) -> str:
    """Explains acceleration that is not 1 g at rest, and names units that fit; "" if it is."""
    length, calm = resting_g(accel)
    low, high = REST_G if calm else MOVING_G
    unit = described.unit or "g"
    measured = f"|a| {'at rest' if calm else '(median)'} is {length:.3g} g if the unit is {unit}"
    if math.isnan(length):
        return ""
    if described.gravity == "removed":
        return f"{measured}, so gravity is in it: leave out gravity" if calm and low <= length <= high else ""
    if low <= length <= high:
        return ""
    number = length / accel.scale
    advice = [f'unit="{other}"' for other, scale in G_PER_UNIT.items() if low <= number * scale <= high]
    if not advice and number > 20:
        advice = [f"values divided by the counts per g (the number at rest is {number:.4g})"]
    if number < MOST_WITHOUT_GRAVITY or length < low:
        advice.append(
            "total acceleration if this is without gravity (user or linear acceleration of a phone): the student was trained with "
            'gravity; gravity="removed" embeds it nevertheless'
        )
    return f"{measured}, but a device at rest measures 1 g; give {', or '.join(advice) or 'the acceleration of one device'}"


def _counted(problem: np.ndarray, settings: PreprocessSettings) -> str:
    """The problems of minutes with their counts and meaning."""
    meaning = {"gap": f"more than {settings.max_gap_s:g} s missing or held", "flat": "the signal never changes"}
    counts = Counter(problem[problem != ""].tolist())
    return ", ".join(f"{count} {reason} ({meaning[reason]})" for reason, count in sorted(counts.items()))


def _remarks(
    segments: np.ndarray, contract: InputContract, described: SignalFormat, settings: PreprocessSettings
) -> list[str]:
    """Differences from the minutes that encoders are trained on, in words."""
    remarks, count = [], len(segments)
    if contract.modality == "ppg":
        # not at the top: acceleration alone needs no code for PPG
        from accdistill_jax.data.preprocessing.quality import ppg_quality

        quality = ppg_quality(segments, rate_hz=settings.rate_hz, band_high_hz=settings.ppg_band_hz[1])
        poor = np.count_nonzero(quality < settings.min_ppg_quality)
        if poor:
            remarks.append(
                f"{poor} of {count} minutes show no clean pulse (quality below {settings.min_ppg_quality:g})"
            )
        return remarks
    moving = np.count_nonzero(motion_g(segments, rate_hz=settings.rate_hz) > settings.max_motion_g)
    if moving:
        remarks.append(f"{moving} of {count} minutes move more than {settings.max_motion_g:g} g, more than in training")
    return remarks + accel_remarks(described.rate_hz, described.gravity, part=contract.part)


def accel_remarks(rate_hz: float, gravity: Gravity, *, part: str) -> list[str]:
    """Differences of a whole acceleration signal from those that encoders are trained on, in words: a low rate, no gravity."""
    remarks = []
    if rate_hz < _FEWEST_HZ:
        remarks.append(
            f"at {rate_hz:.4g} Hz the signal lacks most of the heartbeat, which is at "
            f"{BEAT_BAND_HZ[0]:g} to {BEAT_BAND_HZ[1]:g} Hz"
        )
    if gravity == "removed":
        remarks.append(f"the {part} was trained on acceleration with gravity; without gravity it is not validated")
    return remarks
