"""Shapes of the batches that a stage trains on."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from accdistill_jax.config.schema import Config
from accdistill_jax.data.synthetic.waveforms import SAMPLES
from accdistill_jax.objectives.base import LABEL, SECOND, Labelled, Objective, ParticipantPairs
from accdistill_jax.objectives.given import GIVEN
from accdistill_jax.objectives.teacher_reading import TEACHER
from accdistill_jax.stages.build_objective import student_reads_ppg

ACCEL_CHANNELS = 3


def channels_of(config: Config) -> dict[str, int]:
    """Channels of each modality in a store, by modality."""
    return {"ppg": config.data.synthetic.ppg_channels, "accel": ACCEL_CHANNELS}


def signal_shapes(config: Config, count: int, modalities: Sequence[str]) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of stored signals.

    Args:
        config: the config.
        count: number of segments.
        modalities: "ppg" and "accel", or one of them.
    """
    shapes = {}
    for name in modalities:
        channels = channels_of(config)[name]
        shapes[name] = jax.ShapeDtypeStruct((count, SAMPLES, channels), jnp.int16)
        for statistic in ("scale", "offset"):
            shapes[f"{name}_{statistic}"] = jax.ShapeDtypeStruct((count, channels), jnp.float32)
    return shapes


def segment_shapes(
    config: Config, stage: str, objective: Objective, *, cached: int = 0, given: Sequence[int] = ()
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a batch of one segment, as the pipeline returns it.

    Args:
        config: the config.
        stage: "student" or "teacher".
        objective: objective of the stage.
        cached: width of the teacher's cached quantities, which replace the PPG; 0: the batch has the PPG.
        given: widths of the vectors of teachers that are tables.
    """
    shapes = {"position": jax.ShapeDtypeStruct((1,), jnp.int32)}
    match objective.batches:
        case ParticipantPairs(modality):
            signals = signal_shapes(config, 1, [modality])
            return shapes | signals | {SECOND + name: shape for name, shape in signals.items()}
        case Labelled():
            return shapes | signal_shapes(config, 1, ["accel"]) | {LABEL: jax.ShapeDtypeStruct((1,), jnp.float32)}
    reads_ppg = not cached and (stage == "teacher" or student_reads_ppg(config))
    if cached:
        shapes[TEACHER] = jax.ShapeDtypeStruct((1, cached), jnp.float32)
    shapes |= signal_shapes(config, 1, ["ppg", "accel"] if reads_ppg else ["accel"])
    vectors = {f"{GIVEN}_{i}": jax.ShapeDtypeStruct((1, width), jnp.float32) for i, width in enumerate(given)}
    return shapes | vectors
