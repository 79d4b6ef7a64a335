"""The search over all devices against `ranks.paired_ranks`, on one process and on two."""

import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from accdistill_jax.evaluation.retrieval import search
from accdistill_jax.evaluation.retrieval.ranks import paired_ranks, unit_rows
from accdistill_jax.runtime.parallel import AXIS, Parallel

ROWS = 96


def _over(devices: int, mapping: str = "shard_map") -> Parallel:
    return Parallel(mapping, devices=jax.devices()[:devices])


def _random(rng):
    ppg = rng.standard_normal((ROWS, 12))
    return unit_rows(ppg + rng.standard_normal(ppg.shape)), unit_rows(ppg)


def _tied(rng):
    """Unit rows of +-1/4, whose scores are multiples of 1/8: many ties and no rounding."""
    ppg = rng.choice([-0.25, 0.25], (ROWS, 16)).astype(np.float32)
    return np.where(rng.random(ppg.shape) < 0.2, -ppg, ppg), ppg


def _constant(rng):
    accel, ppg = _random(rng)
    return np.tile(accel[:1], (ROWS, 1)), ppg


def _some_zero(rng):
    accel, ppg = _random(rng)
    accel[::5], ppg[::7] = 0, 0
    return accel, ppg


INPUTS = (_random, _tied, _constant, _some_zero)


@pytest.mark.parametrize("devices", [1, 2, 4])
@pytest.mark.parametrize("block", [None, 24, 17, 5])
def test_ranks_are_those_of_one_machine(devices, block):
    for make in INPUTS:
        query, gallery = make(np.random.default_rng(3))
        found = search.paired_ranks_on_devices(
            query, gallery, parallel=_over(devices), valid=np.ones(ROWS, bool), block=block
        )
        for ranks, expected in zip(found, paired_ranks(query, gallery), strict=True):
            assert ranks.dtype == np.int64
            np.testing.assert_array_equal(ranks, expected, err_msg=make.__name__)


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("block", [1024, 10])
def test_padding_is_neither_query_nor_candidate(devices, block):
    for make in INPUTS:
        rng = np.random.default_rng(4)
        query, gallery = make(rng)
        valid = rng.random(ROWS) < 0.7
        valid[-30:] = False  # the last of four devices has nothing but padding
        query[~valid], gallery[~valid] = gallery[0], gallery[0]  # would score high
        found = search.paired_ranks_on_devices(query, gallery, parallel=_over(devices), valid=valid, block=block)
        for ranks, expected in zip(found, paired_ranks(query[valid], gallery[valid]), strict=True):
            np.testing.assert_array_equal(ranks[valid], expected, err_msg=make.__name__)
            assert not ranks[~valid].any()


def test_nothing_valid_has_no_ranks():
    query, gallery = _tied(np.random.default_rng(0))
    for ranks in search.paired_ranks_on_devices(query, gallery, parallel=_over(4), valid=np.zeros(ROWS, bool)):
        assert not ranks.any()


def test_a_constant_encoder_gets_the_worst_rank_on_every_device():
    query, gallery = _constant(np.random.default_rng(0))
    valid = np.arange(ROWS) < ROWS - 3
    _, backward = search.paired_ranks_on_devices(query, gallery, parallel=_over(4), valid=valid, block=9)
    assert (backward[valid] == ROWS - 3).all()
    zero = np.zeros_like(query)
    for ranks in search.paired_ranks_on_devices(zero, gallery, parallel=_over(4), valid=valid, block=9):
        assert (ranks[valid] == ROWS - 3).all()


def test_permuting_rows_permutes_ranks_and_swapping_sides_swaps_them():
    rng = np.random.default_rng(5)
    query, gallery = _tied(rng)
    options = {"parallel": _over(4), "valid": np.ones(ROWS, bool), "block": 7}
    forward, backward = search.paired_ranks_on_devices(query, gallery, **options)
    for _ in range(5):
        order = rng.permutation(ROWS)
        found = search.paired_ranks_on_devices(query[order], gallery[order], **options)
        np.testing.assert_array_equal(found, (forward[order], backward[order]))
    np.testing.assert_array_equal(search.paired_ranks_on_devices(gallery, query, **options), (backward, forward))


@pytest.mark.parametrize("mapping", ["shard_map", "pmap"])
def test_either_mapping_and_any_order_of_devices(mapping):
    query, gallery = _tied(np.random.default_rng(6))
    parallel = Parallel(mapping, devices=jax.devices()[::-1])
    found = search.paired_ranks_on_devices(query, gallery, parallel=parallel, valid=np.ones(ROWS, bool))
    np.testing.assert_array_equal(found, paired_ranks(query, gallery))


def test_rows_that_do_not_fit_are_refused():
    query, gallery = _tied(np.random.default_rng(0))
    valid = np.ones(ROWS, bool)
    with pytest.raises(ValueError, match="paired rows"):
        search.paired_ranks_on_devices(query, gallery[:-1], parallel=_over(2), valid=valid)
    with pytest.raises(ValueError, match="paired rows"):
        search.paired_ranks_on_devices(query, gallery, parallel=_over(2), valid=valid[1:])
    for rows in (0, 95):
        with pytest.raises(ValueError, match="split evenly over 2 devices"):
            search.paired_ranks_on_devices(query[:rows], gallery[:rows], parallel=_over(2), valid=valid[:rows])


@pytest.mark.parametrize(
    ("rows", "width", "block"),
    [(65536, 64, 2048), (5000, 128, 4096), (5000, 128, 512), (4096, 256, 1024), (250000, 128, 4096)],
)
def test_memory_depends_on_the_rows_of_a_device_alone_as_documented(rows, width, block):
    bound = 4 * (3.5 * block**2 + 2 * (rows + block) * width + 4 * block * width + 16 * (rows + block))
    for devices in (1, 4):
        mesh, n = _over(devices).mesh, devices * rows
        split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))
        shapes = [((n, width), np.float32), ((n, width), np.float32), ((n,), np.float32), ((n,), bool)]
        arguments = [jax.ShapeDtypeStruct(shape, dtype, sharding=split) for shape, dtype in shapes]
        memory = search.search_program(mesh, block).lower(*arguments).compile().memory_analysis()
        assert memory.temp_size_in_bytes <= bound
        assert memory.argument_size_in_bytes == rows * (8 * width + 5)


PROCESS = """
import sys
import jax
import numpy as np
coordinator, process, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
jax.distributed.initialize(coordinator, num_processes=2, process_id=process)
from accdistill_jax.evaluation.retrieval import search
from accdistill_jax.runtime.parallel import Parallel
rows = np.load(f"{folder}/rows{process}.npz")
found = {}
for mapping in ("shard_map", "pmap"):
    parallel = Parallel(mapping)
    assert (parallel.num_devices, parallel.num_local) == (4, 2)
    for block in (1024, 7):
        found[f"{mapping}-{block}"] = search.paired_ranks_on_devices(**rows, parallel=parallel, block=block)
np.savez(f"{folder}/ranks{process}.npz", **found)
"""


@pytest.mark.slow
def test_two_processes_search_one_pool(tmp_path, repository):
    query, gallery = _tied(np.random.default_rng(7))
    valid = np.random.default_rng(8).random(ROWS) < 0.9
    half = ROWS // 2
    for process, own in enumerate((slice(None, half), slice(half, None))):
        np.savez(tmp_path / f"rows{process}.npz", query=query[own], gallery=gallery[own], valid=valid[own])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    env = os.environ | {"XLA_FLAGS": "", "JAX_NUM_CPU_DEVICES": "2", "PYTHONPATH": str(repository)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, coordinator, str(process), str(tmp_path)],
            cwd=repository,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(2)
    ]
    try:
        for process in started:
            output, _ = process.communicate(timeout=120)
            assert process.returncode == 0, output
    finally:
        for process in started:
            process.kill()
            process.wait()
    expected = paired_ranks(query[valid], gallery[valid])
    parts = [np.load(tmp_path / f"ranks{process}.npz") for process in range(2)]
    assert len(parts[0].files) == 4
    for name in parts[0].files:
        joined = np.concatenate([part[name] for part in parts], axis=1)
        np.testing.assert_array_equal(joined[:, valid], expected, err_msg=name)
        assert not joined[:, ~valid].any()
