"""Retrieval under errors of the clock: the shift, and the search on a finished run."""

import numpy as np
import pytest

from accdistill_jax.data.store.store import Store
from accdistill_jax.evaluation.retrieval.retrieval import ACCEL_TO_PPG, top1_by_pool_size
from accdistill_jax.runtime.parallel import Parallel
from accdistill_jax.runtime.peers.peers import Peers
from accdistill_jax.stages.clock_errors import ClockError, delayed, search_with_clock_errors
from accdistill_jax.stages.context import Run

RATE_HZ = 64


@pytest.mark.parametrize("error", [ClockError(0.25), ClockError(-0.31), ClockError(0.1, 5000), ClockError(0.0, 200)])
def test_a_shifted_line_is_the_line_at_the_shifted_times(error):
    seconds = np.arange(640) / RATE_HZ
    signal = np.stack([seconds, 3 - 2 * seconds], axis=1)[None].astype(np.float32)
    at = np.clip(seconds * (1 + error.drift_ppm * 1e-6) + error.offset_s, 0, seconds[-1])
    expected = np.stack([at, 3 - 2 * at], axis=1)[None]
    np.testing.assert_allclose(delayed(signal, error, rate_hz=RATE_HZ), expected, atol=2e-5)


def test_no_error_changes_no_sample():
    signal = np.random.default_rng(0).integers(-32768, 32768, (2, 100, 3)).astype(np.int16)
    np.testing.assert_array_equal(delayed(signal, ClockError(0.0), rate_hz=RATE_HZ), signal.astype(np.float32))


def test_without_an_error_it_is_the_search_of_the_report(finished, smoke_config, smoke_store):
    run = Run(smoke_config(), finished, (Store.open(smoke_store),), Parallel(), Peers.alone(), print)
    plain, late = search_with_clock_errors(run, [ClockError(0.0), ClockError(0.5)], split="test", pool_sizes=(2, 4))
    with np.load(finished / "embeddings" / "main.npz") as saved:
        ranks = saved[f"student/test/rank/{ACCEL_TO_PPG}"]
    np.testing.assert_allclose([plain.top1[2], plain.top1[4]], top1_by_pool_size(ranks, [2, 4]), rtol=1e-5)
    assert plain.segments == len(ranks) and late.top1 != plain.top1
