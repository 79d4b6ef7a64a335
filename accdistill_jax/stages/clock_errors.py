"""Retrieval by a finished student when the clocks of the two sensors disagree.

A student that compares windows of time has learned when beats come, so it depends on clocks that agree. This evaluation shifts
the PPG against the acceleration and searches again. Our addition; the paper does not treat clocks.

    accdistill benchmark clock runs/distill
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from accdistill_jax.data.store.opening import choose_rows
from accdistill_jax.data.store.store import Store
from accdistill_jax.errors import UserError
from accdistill_jax.evaluation.evaluate import STUDENT, TEACHER
from accdistill_jax.evaluation.retrieval.retrieval import top1_by_pool_size
from accdistill_jax.stages.context import Run
from accdistill_jax.stages.embedding import load_encoders, search_pool
from accdistill_jax.stages.map_segments import embed


class ClockError(NamedTuple):
    """The error of the PPG sensor's clock.

    Attributes:
        offset_s: seconds by which its clock is ahead at the start of a minute.
        drift_ppm: microseconds that it gains per second. Within a minute 200 ppm are 12 ms; drift matters where it adds up to an
            offset between two synchronisations.
    """

    offset_s: float
    drift_ppm: float = 0.0


class ClockErrorResult(NamedTuple):
    """Retrieval under one clock error.

    Attributes:
        error: the clock error.
        segments: minutes searched for.
        top1: pool size -> expected share of minutes whose PPG is first in a search by acceleration.
    """

    error: ClockError
    segments: int
    top1: dict[int, float]


def delayed(signal: jax.Array, error: ClockError, *, rate_hz: float) -> jax.Array:
    """The samples that a sensor with a wrong clock takes for those of the minute.

    Args:
        signal: [batch, time, channels], at `rate_hz`.
        error: the clock error; its fields may be traced.
        rate_hz: sampling rate in Hz.

    Returns:
        [batch, time, channels] float32, linearly interpolated; times outside the minute get the minute's first or last sample.
    """
    count = signal.shape[1]
    steps = jnp.arange(count, dtype=jnp.float32)
    # the gain per step is added to the step at the end: as 1 + 1e-4, float32 would round it
    at = jnp.clip(steps + error.offset_s * rate_hz + steps * (error.drift_ppm * 1e-6), 0, count - 1)
    before = jnp.clip(jnp.floor(at).astype(jnp.int32), 0, count - 2)
    share = (at - before)[None, :, None]
    signal = signal.astype(jnp.float32)
    return (1 - share) * jnp.take(signal, before, axis=1) + share * jnp.take(signal, before + 1, axis=1)


def project_with_clock_errors(
    run: Run, errors: Sequence[ClockError], rows: Sequence[tuple[Store, np.ndarray]]
) -> tuple[np.ndarray, Iterator[np.ndarray]]:
    """Projections of the acceleration, and those of the PPG under each clock error; all processes call it together.

    Args:
        run: a run with a finished teacher and a student that is compared with it.
        errors: the clock errors.
        rows: stores, each with the indices of the minutes to project.

    Returns:
        [N, P] float32 of the student, and for each error, in order, [N, P] float32 of the teacher.

    Raises:
        UserError: the student has no projection that is compared with the teacher's.
    """
    encoders = {encoder.name: encoder for encoder in load_encoders(run).all}
    settings = {"batch_size": run.config.evaluation.batch_size, "parallel": run.parallel}
    if not {STUDENT, TEACHER} <= encoders.keys():
        raise UserError("this run has no student that is compared with a PPG encoder: no search is possible")
    student, teacher, rate_hz = encoders[STUDENT], encoders[TEACHER], rows[0][0].rate_hz
    if teacher.tables is not None:
        raise UserError("the teacher of this run is a table of embeddings: its PPG cannot be shifted")

    def embed_delayed(params, batch):
        ppg = delayed(batch["ppg"], ClockError(*params["error"]), rate_hz=rate_hz)
        return teacher.apply(params["teacher"], {**batch, "ppg": jnp.round(ppg).astype(jnp.int16)})

    def projection(apply, params) -> np.ndarray:
        found = embed(apply, params, rows, **settings).get("projection")
        if found is None:
            raise UserError("the student of this run is not compared with a teacher: no search is possible")
        return found

    def galleries() -> Iterator[np.ndarray]:
        for error in errors:
            values = tuple(np.float32(value) for value in error)
            yield projection(embed_delayed, {"teacher": teacher.params, "error": values})

    return projection(student.apply, student.params), galleries()


def search_with_clock_errors(
    run: Run, errors: Sequence[ClockError], *, split: str = "validation", pool_sizes: Sequence[int] = (100, 1000)
) -> list[ClockErrorResult]:
    """Searches the minutes of a split under several clock errors; all processes call it together.

    Args:
        run: a run with a finished teacher and a student that is compared with it.
        errors: the clock errors.
        split: "validation", "test" or "train".
        pool_sizes: pools to state the result for; larger ones than the split are cut to it.

    Returns:
        A result for each error, in order.

    Raises:
        UserError: the student has no projection that is compared with the teacher's, or the split has no two minutes.
    """
    rows = list(zip(run.stores, choose_rows(run.stores, split, None, seed=run.config.seed), strict=True))
    if sum(len(of_store) for _, of_store in rows) < 2:
        raise UserError(f"the split {split} has fewer than two minutes: nothing to search among")
    query, galleries = project_with_clock_errors(run, errors, rows)
    results = []
    for error, gallery in zip(errors, galleries, strict=True):
        ranks, _ = search_pool(query, gallery, run.parallel)
        sizes = sorted({min(size, len(ranks)) for size in pool_sizes})
        top1 = top1_by_pool_size(ranks, sizes)
        run.say(
            f"offset {error.offset_s:g} s, drift {error.drift_ppm:g} ppm: first in {100 * top1[-1]:.1f} % of {sizes[-1]}"
        )
        results.append(ClockErrorResult(error, len(ranks), dict(zip(sizes, top1.tolist(), strict=True))))
    return results
