"""Contender: a plain loop over minutes with numpy and scipy, which generates or prepares them; it writes an npz file per participant.

Both loops produce the contents of a store: minutes at 64 Hz, PPG band-passed forwards and backwards, int16 with a scale and an
offset per minute and channel, and a heart rate, a level of motion and a quality of each minute. They are faster because they omit
work:

- generating: a single shape of pulse and of ballistocardiogram for everybody, no vascular tone, arrhythmia, posture or bursts of
  motion;
- preparing: no alignment of streams that start at different times, no gaps, clipping or irregular timestamps, filters that ring at
  the edges of every minute, a quality that is a single number of the spectrum;
- both: no selection, checksums, split, atomic files or continuation after an interruption.
"""

from pathlib import Path
from typing import Any

import numpy as np
import scipy.signal

from accdistill_jax.benchmark.made_up.raw_recordings import ACCEL_HZ, ACCEL_STEPS_PER_G, PPG_HZ

RATE_HZ, MINUTE_S = 64, 60
SAMPLES = RATE_HZ * MINUTE_S
BAND_HZ = (0.5, 8.0)


def generate_minute(rng: np.random.Generator, *, channels: int) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Generates a minute: PPG [3840, channels], acceleration [3840, 3] in g, both at 64 Hz, and its labels."""
    time = np.arange(SAMPLES) / RATE_HZ
    mean_s = 60 / rng.normal(70, 10)
    intervals = np.clip(rng.normal(mean_s, 0.04, 2 * MINUTE_S + 40), 0.35, 2.0)
    beats = np.cumsum(intervals) - 2.0
    breath = np.sin(2 * np.pi * rng.uniform(0.2, 0.3) * time + rng.uniform(0, 6))
    ppg = 0.3 * breath[:, None] + 0.05 * rng.normal(size=(SAMPLES, channels))
    accel = np.array([0.1, 0.2, 0.97]) + 0.002 * breath[:, None] + 0.002 * rng.normal(size=(SAMPLES, 3))
    gains, axes = rng.uniform(0.5, 1.5, channels), np.array([0.3, 0.4, 1.0]) * 0.004
    for beat, interval in zip(beats, intervals, strict=True):
        if beat > MINUTE_S:
            break
        near = slice(max(int(beat * RATE_HZ), 0), max(int((beat + 1.2) * RATE_HZ), 0))
        after = time[near] - beat
        pulse = np.exp(-(((after - 0.25) / (0.12 * interval)) ** 2)) + 0.4 * np.exp(-(((after - 0.55) / 0.15) ** 2))
        ppg[near] += pulse[:, None] * gains * rng.normal(1, 0.05)
        recoil = np.exp(-after / 0.15) * np.sin(2 * np.pi * 6 * after)
        accel[near] += recoil[:, None] * axes
    inside = (beats >= 0) & (beats <= MINUTE_S)
    labels = {"hr_bpm": 60 / intervals[inside].mean(), "sdnn_ms": 1000 * intervals[inside].std()}
    return ppg, accel, labels


def finish_minute(ppg: np.ndarray, accel: np.ndarray) -> dict[str, Any]:
    """Filters, rates and quantises a minute at 64 Hz.

    Args:
        ppg: [3840, channels].
        accel: [3840, 3], in g.
    """
    b, a = scipy.signal.butter(4, BAND_HZ, btype="bandpass", fs=RATE_HZ)[:2]
    ppg = scipy.signal.filtfilt(b, a, ppg, axis=0)
    windows = accel.reshape(-1, 2 * RATE_HZ, 3)
    made = {"motion_g": np.sqrt(windows.var(axis=1).sum(-1).mean())}
    frequencies, power = scipy.signal.welch(ppg[:, 0], fs=RATE_HZ, nperseg=8 * RATE_HZ)
    pulse = (frequencies > 0.6) & (frequencies < 3.5)
    best = frequencies[pulse][power[pulse].argmax()]
    made["quality"] = power[np.abs(frequencies - best) < 0.2].sum() / power.sum()
    peaks, _ = scipy.signal.find_peaks(ppg[:, 0], distance=0.4 * RATE_HZ, prominence=0.5 * ppg[:, 0].std())
    made["hr_bpm"] = 60 * RATE_HZ / np.diff(peaks).mean() if len(peaks) > 1 else np.nan
    for name, values in (("ppg", ppg), ("accel", accel)):
        low, high = values.min(axis=0), values.max(axis=0)
        offset, scale = (low + high) / 2, np.maximum((high - low) / 2 / 32767, 1e-20)
        made |= {
            name: np.rint((values - offset) / scale).astype(np.int16),
            f"{name}_scale": scale,
            f"{name}_offset": offset,
        }
    return made


def save(path: Path, minutes: list[dict[str, Any]]) -> None:
    """Writes a file with an array per name."""
    arrays: dict[str, Any] = {name: np.stack([minute[name] for minute in minutes]) for name in minutes[0]}
    np.savez(path, **arrays)


def generate(out: Path, *, participants: int, minutes: int) -> None:
    """Generates minutes of participants, a file each."""
    for participant in range(participants):
        rng, made = np.random.default_rng(participant), []
        for _ in range(minutes):
            ppg, accel, labels = generate_minute(rng, channels=2)
            made.append(finish_minute(ppg, accel) | labels)
        save(out / f"{participant}.npz", made)


def prepare_files(out: Path, files: list[str]) -> int:
    """Prepares the minutes of raw recordings and returns their number."""
    total = 0
    for file in files:
        with np.load(file) as content:
            ppg, accel = content["ppg"], content["accel"] / ACCEL_STEPS_PER_G
        made = []
        for minute in range(len(ppg) // (PPG_HZ * MINUTE_S)):
            raw_ppg = ppg[minute * PPG_HZ * MINUTE_S :][: PPG_HZ * MINUTE_S]
            raw_accel = accel[minute * ACCEL_HZ * MINUTE_S :][: ACCEL_HZ * MINUTE_S]
            resampled = scipy.signal.resample_poly(raw_accel, RATE_HZ, ACCEL_HZ, axis=0, padtype="line")
            made.append(finish_minute(raw_ppg, resampled))
        save(out / Path(file).name, made)
        total += len(made)
    return total


def prepare_contender(order: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Prepares the loop.

    Args:
        order: "out", a new folder; and either "population", participants and minutes of each, or "files", raw recordings.
    """
    out = Path(order["out"])
    out.mkdir()
    if "files" in order:
        minutes = prepare_files(out, order["files"])

        def run(count: int) -> None:
            for _ in range(count):
                prepare_files(out, order["files"])
    else:
        participants, each = order["population"]
        minutes = participants * each

        def run(count: int) -> None:
            for _ in range(count):
                generate(out, participants=participants, minutes=each)

    return {"minutes": minutes, "kept": minutes}, run


if __name__ == "__main__":
    from accdistill_jax.benchmark.contest import serve

    serve(prepare_contender)
