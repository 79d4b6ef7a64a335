"""Properties of a recording's sensors, measured from its samples: rate, step between values, range, and noise of the acceleration.

A store keeps them for each recording, so that results can be told by sensor. They come from a few thousand samples, spread over
the recording, so their cost is small beside that of a preparation.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import scipy.fft

from accdistill_jax.data.preprocessing.measures import NOISE_HZ
from accdistill_jax.data.preprocessing.quality import MOTION_WINDOW_S
from accdistill_jax.data.recording import Recording, Stream

SENSORS = "sensors"
"""Key in the notes of a recording."""
_STEP_BLOCKS, _STEP_SAMPLES = 8, 256
_WINDOWS = 48
_STAMPS = 4096  # whose median tells gaps from steps
_CALM = 0.25  # share of the windows that count as calm
_LEAST_WINDOWS = 4
_TAPER_BINS = 2  # frequencies that are further apart share no noise through the taper
_OF_NYQUIST = (0.6, 0.9)  # band of the noise of a sensor that is too slow for `NOISE_HZ`
_DIGITS = 4
_NUMBERS = ("rate_hz", "step", "noise_mg", "lowest", "highest")


def measured_sensors(recording: Recording) -> dict[str, object]:
    """Sensors of a recording, as JSON values.

    Returns:
        "device": name; and for each of "ppg" and "accel" that the recording has:

        - unit: of step, lowest, highest and range;
        - rate_hz: mean samples per second without gaps;
        - step: smallest distance between two values, None if all are equal;
        - lowest, highest: values of the recording;
        - range: [lowest, highest] of the sensor, if the reader knows it;
        - noise_mg: acceleration only: noise density in mg/sqrt(Hz) at 20 to 30 Hz, or at 60 to 90 % of half the rate of a slower
          sensor, in the quarter of windows of 2 s with the least motion at lower frequencies. None without such windows.
    """
    streams = {name: _measured(recording.streams[name]) for name in ("ppg", "accel") if name in recording.streams}
    return {"device": recording.device, **streams}


def _measured(stream: Stream) -> dict[str, object]:
    rate_hz = _rate_hz(stream)
    known: dict[str, object] = {
        "unit": stream.unit,
        "rate_hz": _rounded(rate_hz),
        "step": _rounded(smallest_step(stream.values)),
        "lowest": _rounded(float(np.nanmin(stream.values))),
        "highest": _rounded(float(np.nanmax(stream.values))),
    }
    if stream.range is not None:
        low, high = stream.range
        known["range"] = [_rounded(float(np.max(low))), _rounded(float(np.min(high)))]
    if stream.name == "accel":
        known["noise_mg"] = _rounded(noise_mg(stream.values, rate_hz=rate_hz) if rate_hz else None)
    return known


def _rate_hz(stream: Stream) -> float | None:
    if stream.rate_hz is not None:
        return float(stream.rate_hz)
    steps = np.diff(stream.stamps)
    steps = steps[steps > 0]
    if not steps.size:
        return None
    usual = steps[steps <= 1.5 * np.median(steps[:: -(-len(steps) // _STAMPS)])]
    return float(1 / usual.mean())


def smallest_step(values: np.ndarray) -> float | None:
    """The smallest distance between two values of a channel; None if each channel is constant.

    Args:
        values: [samples, channels] float32, NaN where missing. Distances within the rounding of float32 do not count.
    """
    starts = np.unique(np.linspace(0, max(len(values) - _STEP_SAMPLES, 0), _STEP_BLOCKS).astype(int))
    chosen = np.concatenate([values[start : start + _STEP_SAMPLES] for start in starts])
    steps = []
    for channel in chosen.T:
        distinct = np.unique(channel[np.isfinite(channel)]).astype(np.float64)
        if distinct.size > 1:
            distances = np.diff(distinct)
            rounding = 2 * np.finfo(np.float32).eps * np.abs(distinct).max()
            steps.append(distances[distances > rounding])
    distances = np.concatenate(steps) if steps else np.zeros(0)
    if not distances.size:
        return None
    return float(np.median(distances[distances <= 1.2 * distances.min()]))


def noise_mg(accel: np.ndarray, *, rate_hz: float) -> float | None:
    """Noise density of the acceleration in its calmest windows, in mg/sqrt(Hz); None without enough whole windows.

    Args:
        accel: [samples, 3] float, in g, NaN where missing.
        rate_hz: samples per second.
    """
    length = round(MOTION_WINDOW_S * rate_hz)
    starts = np.unique(np.linspace(0, len(accel) - length, _WINDOWS).astype(int))
    starts = starts[starts >= 0]
    if length < 16 or len(starts) < _LEAST_WINDOWS:
        return None
    windows = 1e3 * accel[starts[:, None] + np.arange(length)].astype(np.float64)
    spread = windows.var(axis=1).sum(axis=1)  # NaN where a sample is missing
    windows = windows[spread > 0]
    if len(windows) < _LEAST_WINDOWS:
        return None
    taper = np.hanning(length)
    windows = (windows - windows.mean(axis=1, keepdims=True)) * taper[:, None]
    power = np.abs(scipy.fft.rfft(windows, axis=1)) ** 2 * (2 / (rate_hz * np.sum(taper**2)))
    frequency = np.arange(power.shape[1]) * (rate_hz / length)
    low, high = (min(edge, share * rate_hz / 2) for edge, share in zip(NOISE_HZ, _OF_NYQUIST, strict=True))
    # Motion is slower than the band, and noise there says nothing of noise in the band: calm windows are not those of little noise.
    motion = power[:, frequency < low - _TAPER_BINS * rate_hz / length].sum(axis=(1, 2))
    calm = power[np.argsort(motion)[: max(round(_CALM * len(motion)), _LEAST_WINDOWS)]]
    # The median of an exponential variable is ln 2 times its mean.
    return float(np.sqrt(np.median(calm[:, (frequency >= low) & (frequency <= high)]) / np.log(2)))


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{_DIGITS}g}")


class SensorRow(NamedTuple):
    """Sensors of one device and signal, over its recordings; None where unknown.

    Attributes:
        device: its name.
        signal: "ppg" or "accel".
        recordings: their number.
        unit: of step, lowest, highest and range.
        rate_hz: median.
        step: median.
        noise_mg: median.
        lowest: lowest value of any recording.
        highest: highest value of any recording.
        range: [lowest, highest] of the sensor.
    """

    device: str
    signal: str
    recordings: int
    unit: str
    rate_hz: float | None
    step: float | None
    noise_mg: float | None
    lowest: float | None
    highest: float | None
    range: tuple[float, float] | None

    @property
    def words(self) -> str:
        """The sensor in a line, such as "64 Hz, steps of 0.488 mg, noise 0.69 mg/sqrt(Hz)"."""
        scale, unit = (1e3, "mg") if self.unit == "g" else (1.0, self.unit)
        parts = [
            None if self.rate_hz is None else f"{self.rate_hz:.3g} Hz",
            None if self.step is None else f"steps of {scale * self.step:.3g} {unit}",
            None if self.noise_mg is None else f"noise {self.noise_mg:.2g} mg/sqrt(Hz)",
        ]
        return ", ".join(part for part in parts if part)


def sensor_rows(notes: Iterable[object]) -> list[SensorRow]:
    """One row for each device and signal, sorted by both.

    Args:
        notes: of each recording, from a manifest; those of older stores have no sensors.
    """
    groups: dict[tuple[str, str], list[Mapping[str, object]]] = {}
    for note in notes:
        sensors = note.get(SENSORS) if isinstance(note, Mapping) else None
        if isinstance(sensors, Mapping):
            for signal, known in sensors.items():
                if isinstance(known, Mapping):
                    groups.setdefault((str(sensors.get("device", "")), str(signal)), []).append(known)
    rows = []
    for (device, signal), sensors in sorted(groups.items()):
        numbers = {key: [float(v) for s in sensors if isinstance(v := s.get(key), int | float)] for key in _NUMBERS}
        middle = {key: float(np.median(values)) if values else None for key, values in numbers.items()}
        ends = next(
            (tuple(map(float, e)) for s in sensors if isinstance(e := s.get("range"), list) and len(e) == 2), None
        )
        rows.append(
            SensorRow(
                device,
                signal,
                len(sensors),
                str(sensors[0].get("unit", "")),
                rate_hz=middle["rate_hz"],
                step=middle["step"],
                noise_mg=middle["noise_mg"],
                lowest=min(numbers["lowest"], default=None),
                highest=max(numbers["highest"], default=None),
                range=None if ends is None else (ends[0], ends[1]),
            )
        )
    return rows
