"""Training steps compiled for TPU slices by libtpu, where that is installed: what must hold of a program for a TPU."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from accdistill_jax.benchmark.model import hardware

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None, reason="libtpu, the TPU's compiler, is not installed (extra `tpu`)"
    ),
]

TWO_LAYERS = [f"--config.{stage}.encoder.transformer.depth=2" for stage in ("student", "teacher")]
PADDING = 16 << 20  # bytes: arrays of a few channels are laid out in tiles of 8 x 128
METRICS_BYTES = 128  # norms and the like: what the formula may be off by


def compiled(tmp_path, preset: str, topology: str, *arguments: str) -> dict:
    """The record of `benchmark compile` for one slice."""
    out = tmp_path / "compiled.json"
    command = [sys.executable, "-m", "accdistill_jax.benchmark", "compile", f"--config=configs/distill.py:{preset}"]
    command += ["--topology", topology, "--json", str(out), *TWO_LAYERS, *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "estimates of the compiler, and not a measurement" in done.stdout
    return json.loads(out.read_text())["slices"][0]


def sent(one: dict, name: str) -> dict[str, int]:
    """Bytes of whole arrays by kind of collective."""
    found: dict[str, int] = {}
    for each in one[name]:
        found[each["kind"]] = found.get(each["kind"], 0) + each["array_bytes"]
    return found


def check(one: dict) -> None:
    """Checks that every program must pass."""
    # all temporary arrays are hardly more than what is kept for the backward pass before the compiler fuses
    assert one["memory"]["temporary arrays"] <= one["kept_bytes"] + 2 * sum(one["logical"].values()) + PADDING
    assert sum(one["memory"].values()) < one["memory_bytes"]
    assert one["transfers"] == [] and one["unknown_loops"] == 0
    assert set(source.split(":")[0] for source in one["exact_products"]) <= {"inputs/augment.py"}
    assert 0 < one["flops_per_cycle"] < one["cycle_flops"]


PRODUCT = """
import sys
import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding
from accdistill_jax.benchmark.model import optimised, topology

jax.config.update("jax_platforms", "cpu")
where = topology.describe_slice(sys.argv[1])
square = jax.ShapeDtypeStruct((4096, 4096), jnp.bfloat16, sharding=SingleDeviceSharding(where.devices[0]))
print(len(where.devices), optimised.parse_program(jax.jit(jnp.matmul).lower(square, square).compile().as_text()).cycles)
"""


@pytest.mark.parametrize("name, chips", [("v4:2x2x1", 4), ("v5e:1x1", 1), ("v5p:2x2x2", 8), ("v6e:2x2", 4)])
def test_a_large_product_takes_the_cycles_of_a_chip_s_matrix_units(name, chips):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("JAX_", "XLA_"))}
    done = subprocess.run([sys.executable, "-c", PRODUCT, name], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    devices, cycles = map(int, done.stdout.split())
    assert devices == chips
    assert 0.8 < 2 * 4096**3 / cycles / hardware.TPU_CHIPS[name.split(":")[0]].cycle_flops <= 1


def test_the_paper_step_for_one_chip_copies_little_and_sends_nothing(tmp_path):
    one = compiled(tmp_path, "paper", "v5e:1x1", "--batch=16")
    check(one)
    assert one["moving_cycles"] < 0.2 * one["cycles"]  # 0.29 with queries, keys and values as an array of five axes
    assert one["flops_per_cycle"] > 0.12 * one["cycle_flops"]
    assert one["collectives"] == []


def test_the_paper_step_for_sixteen_chips_by_pmap_gathers_twice(tmp_path):
    one = compiled(
        tmp_path,
        "paper",
        "v5e:4x4",
        "--batch=8",
        "--config.runtime.mapping=pmap",
        "--config.runtime.rematerialise=blocks",
    )
    check(one)
    counted, expected = sent(one, "collectives"), sent(one, "expected_collectives")
    assert sum(each["kind"] == "all-gather" for each in one["collectives"]) == 2
    # what is to be scattered and is small, as the projections' gradients of a few segments, is summed whole
    reduced, wanted = (each["all-reduce"] + each.get("reduce-scatter", 0) for each in (counted, expected))
    assert abs(reduced - wanted) <= METRICS_BYTES
    assert counted["all-gather"] in (
        expected["all-gather"],
        expected["all-gather"] // 2,
    )  # projections may travel as bfloat16


def test_the_small_step_for_sixteen_chips_in_pieces_with_a_sharded_optimiser(tmp_path):
    one = compiled(
        tmp_path,
        "default",
        "v5e:4x4",
        "--batch=8",
        "--config.runtime.optimizer_state=sharded",
        "--config.student.train.micro_batches=2",
        "--config.student.drop_fraction=0.5",
    )
    check(one)
    counted, expected = sent(one, "collectives"), sent(one, "expected_collectives")
    # of arrays so small the compiler sums gradients whole in one exchange, and gathers a few by a sum as well
    gathered = expected["all-gather"] - counted["all-gather"]
    assert gathered >= 0 and counted.get("reduce-scatter", 0) <= expected["reduce-scatter"]
    assert counted["all-reduce"] <= expected["reduce-scatter"] + expected["all-reduce"] + gathered
