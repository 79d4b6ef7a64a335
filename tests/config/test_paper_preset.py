"""The presets paper-literal and paper run: models, objectives and optimiser as they are, two steps of small batches."""

import math

import jax
import pytest

from accdistill_jax.config.convert import changed
from accdistill_jax.config.load import load_config
from accdistill_jax.models.build import parameter_count
from accdistill_jax.run import run
from accdistill_jax.storage.export import load_params
from accdistill_jax.training.metrics import read_metrics

STEPS, BATCH = 2, 4
# of the student with both heads; launch/README.md counts those of paper-literal
TRAINED_PARAMETERS = {"paper-literal": 7_122_944, "paper": 6_505_280}


def paper(store, preset, **changes):
    train = {
        "batch_size": BATCH,
        "duration": f"{STEPS} steps",
        "warmup": "1 steps",
        "validate_every": f"{STEPS} steps",
        "validation_batches": 0,
        "checkpoint_every": f"{STEPS} steps",
        "log_every": "1 steps",
    }
    short = {f"{stage}.train.{name}": value for stage in ("teacher", "student") for name, value in train.items()}
    run_on = {"stages": ("data", "teacher", "student"), "data.stores": (str(store),)}
    return changed(load_config(f"distill:{preset}"), run_on | short | changes)


@pytest.mark.slow
@pytest.mark.parametrize("preset", TRAINED_PARAMETERS)
@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float32", marks=pytest.mark.long)])
def test_teacher_and_student_train(smoke_store, tmp_path, dtype, preset):
    run(paper(smoke_store, preset, **{"runtime.compute_dtype": dtype}), tmp_path)
    for stage in ("teacher", "student"):
        records = read_metrics(tmp_path / "metrics" / f"{stage}.jsonl")
        assert [(one["step"], one["kind"]) for one in records] == [(step, "train") for step in range(1, STEPS + 1)]
        assert all(math.isfinite(value) for one in records for name, value in one.items() if name != "kind")
        assert all(one["gradient_norm"] > 0 for one in records)
        params = load_params(tmp_path / stage / "export").state
        assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float32"}
    assert parameter_count(params) == TRAINED_PARAMETERS[preset]


@pytest.mark.parametrize("preset", TRAINED_PARAMETERS)
def test_the_preset_computes_in_bfloat16_unless_asked(preset):
    assert load_config(f"distill:{preset}").runtime.compute_dtype == "bfloat16"
