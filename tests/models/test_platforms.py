"""The paper-size student's step lowered for platforms that are not at hand: what is done for the CPU alone stays there."""

import functools
import re

import jax
import numpy as np
import pytest

from accdistill_jax.benchmark.model import program
from accdistill_jax.config.convert import changed
from accdistill_jax.config.load import load_config
from accdistill_jax.runtime import platform as runtime_platform
from accdistill_jax.runtime.parallel import Parallel

PLATFORMS = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}


@functools.cache  # some seconds each
def lowered(platform: str) -> str:
    """StableHLO of the student's training step, two segments."""
    depths = {f"{stage}.encoder.transformer.depth": 2 for stage in ("teacher", "student")}
    work = program.describe_work(changed(load_config("distill:paper-literal"), depths), "student")
    parallel = Parallel(devices=jax.devices()[:1])
    built = program.build_program(work, parallel)
    state = built.start(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), work.params), parallel)
    with runtime_platform.tracing_for(platform):
        traced = built.step.trace(state, work.frozen, work.batch_shapes(2))
        return traced.lower(lowering_platforms=(PLATFORMS[platform],)).as_text()


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_loops_and_barriers_for_the_cpu_do_not_appear_elsewhere(platform):
    text = lowered(platform)
    # augmentation's barriers, on [time, channels] of each segment, are for every platform
    barriers = [line for line in text.splitlines() if "optimization_barrier" in line and "3840" not in line]
    hidden = [
        line for line in barriers if line.endswith("tensor<384x1024xbf16>")
    ]  # a GPU's gradient of the hidden layer, once a block
    assert not _loops(text) and len(hidden) == len(barriers) == {"gpu": 2, "tpu": 0}[platform], (
        _loops(text)[:3],
        barriers[:3],
    )
    # queries, keys and values are slices of the last axis: an array of five axes would be copied into other layouts
    assert "192x3x4x64x" not in text and "192x256x" in text


@pytest.mark.slow
def test_queries_keys_and_values_are_products_of_their_own_on_gpus_alone():
    products = {
        platform: lowered(platform).count("tensor<256x768xbf16>) -> tensor<384x768xbf16>") for platform in PLATFORMS
    }
    assert products["gpu"] == 0 and products["tpu"] >= 4, products


def test_they_do_on_the_cpu():
    text = lowered("cpu")
    assert _loops(text) and "optimization_barrier" in text


def _loops(text: str) -> list[str]:
    """Loops that carry segments or blocks of tokens; those of a random generator carry a few numbers."""
    return [line for line in text.splitlines() if "stablehlo.while" in line and ("x3840x" in line or "x256x" in line)]


# Stage and changes of configs that choose rows and places by numbers: kept tokens, their positions, windows, shifts, neighbours.
CHOOSING = {
    "student with half of its tokens": (
        "student",
        {
            "student.drop_fraction": 0.5,
            "student.head.windows": 4,
            "student.token_weight": 1.0,
            "student.augment.shared_shift": 16,
            "student.augment.accel.clock_offset.probability": 0.5,
            "student.encoder.transformer.positions": "sinusoidal+relative",
        },
    ),
    "EfficientNet that is masked": (
        "student",
        {"student.objective": "masked", "student.encoder.architecture": "efficientnet"},
    ),
    "masked teacher": ("teacher", {"teacher.encoder.transformer.positions": "relative"}),
    "contrastive teacher": ("teacher", {"teacher.objective": "contrastive"}),
}


@pytest.mark.parametrize(
    "stage, changes",
    [pytest.param(*of, id=name, marks=[] if "half" in name else pytest.mark.slow) for name, of in CHOOSING.items()],
)
def test_a_step_for_tpus_has_no_gathers_and_no_scatters(stage, changes):
    parallel = Parallel(devices=jax.devices()[:1])
    with runtime_platform.tracing_for("tpu"):
        work = program.describe_work(changed(load_config("distill:smoke-mean"), changes), stage, uncounted=True)
        built = program.build_program(work, parallel)
        state = jax.eval_shape(built.initial, work.params)
        text = str(jax.make_jaxpr(built.step)(state, work.frozen, work.batch_shapes(2)))
    assert "cond[" in text or "select_n" in text  # augmented
    assert not re.search(r" (gather|scatter(-add)?)\[", text)
