"""Bursts of motion that both sensors of a synthetic minute record at the same time.

They are a nuisance: they say nothing of the heart, but tell which two signals belong to one minute. Everything here is a choice of
this project, for a test of what encoders share when something is easier to share than the heart.
"""

import math

import numpy as np

from accdistill_jax.data.synthetic.physiology import Physiology
from accdistill_jax.data.synthetic.waveforms import RATE_HZ, SAMPLES, Minute

STREAM = 4  # key of the random stream, beside those of `physiology.random_stream`
BURSTS = (1, 3)  # fewest and most in a minute, so that most of the pulse stays readable
ACCEL_G = 0.005  # height of a burst of scale 1 in the acceleration
_WIDTH_S, _TONE_HZ = (0.4, 0.8), (1.0, 3.0)


def add_shared_motion(minute: Minute, person: Physiology, *, scale: float, key: tuple[int, int, int]) -> Minute:
    """Adds the bursts of a minute to both sensors.

    A burst is a tone of 1 to 3 Hz below a Gaussian of 0.4 to 0.8 s (standard deviation), with the same shape in every PPG channel and in
    one random direction of the acceleration.

    Args:
        minute: rendered minute.
        person: the participant, whose pulse waves set the height in the PPG.
        scale: height in pulse waves (PPG) and in `ACCEL_G` (acceleration).
        key: seed of the population, index of the participant, index of the minute.

    Returns:
        The minute with ppg [3840, C] and accel [3840, 3] changed; the acceleration is not rounded again.
    """
    seed, participant, segment = key
    rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed, spawn_key=(participant, STREAM, segment))))
    time_s = np.arange(SAMPLES) / RATE_HZ
    wave = np.zeros(SAMPLES)
    for _ in range(int(rng.integers(BURSTS[0], BURSTS[1] + 1))):
        centre, width = rng.uniform(1.0, SAMPLES / RATE_HZ - 1.0), rng.uniform(*_WIDTH_S)
        tone, phase = rng.uniform(*_TONE_HZ), rng.uniform(0.0, 2 * math.pi)
        wave += np.exp(-0.5 * ((time_s - centre) / width) ** 2) * np.sin(2 * math.pi * tone * time_s + phase)
    direction = rng.standard_normal(3)
    direction /= math.sqrt(float(direction @ direction))
    height = person.perfusion * person.channel_gain[: minute.ppg.shape[1]]
    ppg = minute.ppg + (scale * wave[:, None] * height).astype(np.float32)
    accel = minute.accel + (scale * ACCEL_G * wave[:, None] * direction).astype(np.float32)
    return Minute(ppg, accel)
