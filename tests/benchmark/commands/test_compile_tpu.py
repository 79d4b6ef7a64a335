"""Compiles training steps for TPU slices with libtpu, if it is installed, and checks the programs.

ACCDISTILL_COMPILED=all compiles every combination of `COMBINATIONS`; a number K (default 0) only the Kth, so that CI takes turns.
"""

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
PADDING = 16 << 20  # bytes: arrays with few channels are stored in tiles of 8 x 128
METRICS_BYTES = 128  # tolerance of the formula: norms and similar scalars


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


def sent(compiled: dict, name: str) -> dict[str, int]:
    """Bytes of whole arrays, by kind of collective."""
    sizes: dict[str, int] = {}
    for collective in compiled[name]:
        sizes[collective["kind"]] = sizes.get(collective["kind"], 0) + collective["array_bytes"]
    return sizes


def check(compiled: dict, *, drops_tokens: bool = False) -> None:
    """Checks the properties of every program; only a program that drops tokens also chooses rows exactly."""
    # Temporary arrays are at most slightly larger than the activations that the unfused program keeps.
    assert (
        compiled["memory"]["temporary arrays"]
        <= compiled["kept_bytes"] + 2 * sum(compiled["logical"].values()) + PADDING
    )
    assert sum(compiled["memory"].values()) < compiled["memory_bytes"]
    assert compiled["transfers"] == [] and compiled["unknown_loops"] == 0
    exact = {"inputs/augment.py", "models/ops.py"} if drops_tokens else {"inputs/augment.py"}
    assert set(source.split(":")[0] for source in compiled["exact_products"]) <= exact
    assert "gather" not in compiled["unestimated"] and "scatter" not in compiled["unestimated"]
    assert 0 < compiled["flops_per_cycle"] < compiled["cycle_flops"]
    assert "reason" not in compiled["kernels"]


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
def test_cycles_of_a_large_product_match_the_chip_s_matrix_units(name, chips):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("JAX_", "XLA_"))}
    done = subprocess.run([sys.executable, "-c", PRODUCT, name], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    devices, cycles = map(int, done.stdout.split())
    assert devices == chips
    assert 0.8 < 2 * 4096**3 / cycles / hardware.TPU_CHIPS[name.split(":")[0]].cycle_flops <= 1


KERNELS = """
import sys
import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding
from accdistill_jax.benchmark.model import topology
from accdistill_jax.models import fused_attention

jax.config.update("jax_platforms", "cpu")
chip = SingleDeviceSharding(topology.describe_slice(sys.argv[1]).devices[0])
# batch, tokens, width, heads: the largest of each kind that are not refused, and tokens that fill no register
for *shape, heads, dtype in (
    (4, 352, 256, 4, "bfloat16"),
    (4, 360, 128, 2, "float32"),
    (4, 256, 256, 8, "bfloat16"),
    (4, 192, 1024, 16, "bfloat16"),
    (4, 512, 128, 1, "bfloat16"),
    (3, 38, 128, 4, "bfloat16"),
    (1, 7, 128, 2, "float32"),
):
    batch, tokens, width = shape
    assert fused_attention.refused_size(tokens, width // heads, heads, jnp.dtype(dtype)) == ""
    qkv = jax.ShapeDtypeStruct((batch, tokens, 3 * width), dtype, sharding=chip)
    total = lambda qkv: jnp.sum(fused_attention.fused(heads, False, qkv).astype(jnp.float32) ** 2)
    assert jax.jit(jax.grad(total)).lower(qkv).compile().as_text().count("tpu_custom_call") == 2
"""


@pytest.mark.parametrize("name", ["v4:2x2x1", "v5e:1x1", "v5p:2x2x1", "v6e:1x1"])
def test_the_kernels_of_attention_compile_up_to_the_largest_size(name):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("JAX_", "XLA_"))}
    done = subprocess.run([sys.executable, "-c", KERNELS, name], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def test_the_paper_step_for_one_chip_copies_little_and_sends_nothing(tmp_path):
    paper = compiled(tmp_path, "paper-literal", "v5e:1x1", "--batch=16")
    check(paper)
    assert paper["moving_cycles"] < 0.02 * paper["cycles"]  # 0.03 without the kernels of attention
    assert paper["flops_per_cycle"] > 0.15 * paper["cycle_flops"]  # 0.159 in November 2026
    assert {kernel.split()[0] for kernel in paper["kernels"]["cycles"]} == {"forward_attention", "backward_attention"}
    assert paper["collectives"] == []


def test_the_paper_step_for_sixteen_chips_by_pmap_gathers_twice(tmp_path):
    paper = compiled(
        tmp_path,
        "paper-literal",
        "v5e:4x4",
        "--batch=8",
        "--config.runtime.mapping=pmap",
        "--config.runtime.rematerialise=blocks",
    )
    check(paper)
    counted, expected = sent(paper, "collectives"), sent(paper, "expected_collectives")
    assert sum(collective["kind"] == "all-gather" for collective in paper["collectives"]) == 2
    # The compiler replaces a small reduce-scatter, such as that of the projections' gradients, by an all-reduce.
    reduced, formula = (sums["all-reduce"] + sums.get("reduce-scatter", 0) for sums in (counted, expected))
    assert abs(reduced - formula) <= METRICS_BYTES
    # Projections may be sent as bfloat16.
    assert counted["all-gather"] in (expected["all-gather"], expected["all-gather"] // 2)


def test_the_small_step_for_sixteen_chips_in_pieces_with_a_sharded_optimiser(tmp_path):
    small = compiled(
        tmp_path,
        "mean",
        "v5e:4x4",
        "--batch=8",
        "--config.runtime.optimizer_state=sharded",
        "--config.student.train.micro_batches=2",
        "--config.student.drop_fraction=0.5",
    )
    check(small, drops_tokens=True)
    counted, expected = sent(small, "collectives"), sent(small, "expected_collectives")
    # With such small arrays the compiler reduces whole gradients in a single exchange, and replaces some gathers by an all-reduce.
    gathered = expected["all-gather"] - counted["all-gather"]
    assert gathered >= 0 and counted.get("reduce-scatter", 0) <= expected["reduce-scatter"]
    assert counted["all-reduce"] <= expected["reduce-scatter"] + expected["all-reduce"] + gathered


# Preset, slice and changes: one chip and 16, dtypes, mappings, states, micro-batches, dropped tokens, rematerialised blocks.
COMBINATIONS = {
    "float32, blocks rematerialised": ("smoke-mean", "v5e:1x1", {"runtime.rematerialise": "blocks"}),
    "bfloat16, half of the tokens, micro-batches": (
        "smoke-mean",
        "v5e:1x1",
        {"runtime.compute_dtype": "bfloat16", "student.drop_fraction": 0.5, "student.train.micro_batches": 2},
    ),
    "16 chips by pmap, bfloat16, sharded state": (
        "smoke-mean",
        "v5e:4x4",
        {"runtime.mapping": "pmap", "runtime.compute_dtype": "bfloat16", "runtime.optimizer_state": "sharded"},
    ),
    "16 chips, float32, half of the tokens, micro-batches, blocks rematerialised": (
        "smoke-mean",
        "v6e:4x4",
        {
            "student.drop_fraction": 0.5,
            "student.train.micro_batches": 2,
            "runtime.rematerialise": "blocks",
        },
    ),
}
TURN = os.environ.get("ACCDISTILL_COMPILED", "0")
CHOSEN = [name for i, name in enumerate(COMBINATIONS) if TURN == "all" or i == int(TURN) % len(COMBINATIONS)]


@pytest.mark.parametrize("name", CHOSEN)
def test_combinations_of_settings_compile_without_transfers_and_float32_products(tmp_path, name):
    preset, topology, changes = COMBINATIONS[name]
    step = compiled(
        tmp_path, preset, topology, "--batch=8", *(f"--config.{key}={value}" for key, value in changes.items())
    )
    check(step, drops_tokens="student.drop_fraction" in changes)
    assert step["moving_cycles"] < 0.35 * step["cycles"]
    counted, expected = sent(step, "collectives"), sent(step, "expected_collectives")
    assert bool(counted) == bool(expected) == (step["chips"] > 1)
    # Small arrays are reduced whole, for at most twice the bytes of the formula.
    assert sum(counted.values()) <= 2 * sum(expected.values()) + METRICS_BYTES
