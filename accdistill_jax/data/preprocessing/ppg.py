"""The PPG of a recording: chosen channels, band-passed, systole up."""

import dataclasses

import numpy as np

from accdistill_jax.data.preprocessing import polarity as polarity_lib
from accdistill_jax.data.preprocessing.segments import bandpass
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.recording import Recording, Stream
from accdistill_jax.errors import UserError

_FAINT = 1e-3  # mean absolute value of a pulse; an encoder adds a millionth to it


def chosen_channels(ppg: Stream, settings: PreprocessSettings) -> Stream:
    """The stream with the channels of the settings, in their order.

    Raises:
        UserError: the stream has no such channel.
    """
    if not settings.ppg_channels:
        return ppg
    places = {str(number): number for number in range(len(ppg.channels))}
    places |= {name: number for number, name in enumerate(ppg.channels)}  # a name has priority over a number
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


def readable_factor(wave: np.ndarray) -> np.ndarray:
    """Powers of two that bring faint pulses near 1; 1 for all others.

    Encoders divide by the spread plus a millionth, which would flatten a PPG in amperes.

    Args:
        wave: [..., T, C] without its mean, in any unit.

    Returns:
        [..., 1, C] float32.
    """
    spread = np.mean(np.abs(wave), axis=-2, keepdims=True, dtype=np.float64)
    faint = (spread > 0) & (spread < _FAINT)
    return np.exp2(np.where(faint, -np.floor(np.log2(np.where(faint, spread, 1.0))), 0.0)).astype(np.float32)


def upright_wave(
    on_grid: dict[str, np.ndarray],
    missing: np.ndarray,
    *,
    recording: Recording,
    settings: PreprocessSettings,
    polarity: str | None,
) -> tuple[np.ndarray, dict[str, object]]:
    """Band-passes a PPG and turns it systole up. The unit of a faint channel changes by a power of two.

    Args:
        on_grid: "ppg" [T, C] and, if the recording has it, "accel" [T, 3] in g, at the settings' rate.
        missing: [T] bool, True where a signal is interpolated.
        recording: its device and the declared polarity.
        settings: the band.
        polarity: applied if the polarity is not declared; None takes the vote of the recording's calm, clean frames.

    Returns:
        [T, C] float32, and notes on the decision.
    """
    wave = bandpass(on_grid["ppg"] - np.median(on_grid["ppg"], axis=0), axis=0, settings=settings)
    motion = on_grid.get("accel", np.zeros((len(wave), 3), np.float32))  # every frame counts as calm
    vote = _vote(wave, motion, missing, recording, settings, polarity)
    notes: dict[str, object] = {"ppg_polarity": polarity_lib.described(vote), "ppg_votes": dataclasses.asdict(vote)}
    factor = readable_factor(wave)
    if (factor != 1).any():
        notes["ppg_factor"] = factor[0].tolist()
        wave = wave * factor
    return (-wave if vote.applied == "systole_down" else wave), notes


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
    declared = recording.streams["ppg"].polarity or "unknown"
    applied = polarity_lib.first_choice(declared, frames, up)
    return polarity_lib.Vote(
        recording.device, declared, applied if declared != "unknown" else polarity or applied, frames, up
    )
