"""A student that starts from an earlier export: parameters, refusals, continuation."""

import json
import shutil

import numpy as np
import pytest

from accdistill_jax.data.store.store import Store
from accdistill_jax.errors import UserError
from accdistill_jax.run import run
from accdistill_jax.runtime.parallel import Parallel
from accdistill_jax.runtime.peers.peers import Peers
from accdistill_jax.stages.context import Run
from accdistill_jax.stages.student_start import load_initial, read_initial, starting_from
from accdistill_jax.storage.arrays import flatten_arrays
from accdistill_jax.storage.export import load_params, save_params


@pytest.fixture
def init(finished) -> str:
    """Export of the finished student."""
    return str(finished / "student" / "export")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"student.encoder.transformer.width": 48},
            "has student.encoder.transformer.width = [0-9]+, this run's has 48; give both the same --config.student.encoder",
        ),
        (
            {"student.encoder.architecture": "efficientnet"},
            "student.encoder.architecture = 'transformer', this run's has 'eff",
        ),
        ({"student.head.windows": 1}, "transformer.output = 0, .*config.student.head.windows above 1"),
        ({"inputs.accel.bands": "low+high"}, "inputs.accel.bands = 'low.high.beat', this run's has 'low.high'"),
    ],
)
def test_another_architecture_is_refused_in_a_line(smoke_config, init, changes, line):
    changes = {"student.encoder.transformer.output": 128} | changes
    with pytest.raises(UserError, match=line) as caught:
        read_initial(smoke_config(**{"student.init": init} | changes))
    assert "\n" not in str(caught.value)


def test_an_export_of_something_else_is_refused_before_a_folder_is_made(smoke_config, finished, tmp_path):
    teacher = str(finished / "teacher" / "export")
    with pytest.raises(UserError, match="config.student.init: .* holds no student .kind 'teacher'"):
        run(smoke_config(**{"student.init": teacher}), tmp_path / "run")
    with pytest.raises(UserError, match="no exported parameters in nowhere"):
        run(smoke_config(**{"student.init": "nowhere"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_encoder_and_fitting_heads_are_taken(smoke_config, smoke_store, init, tmp_path):
    said = []
    run_of = Run(
        smoke_config(**{"student.init": init}),
        tmp_path,
        (Store.open(smoke_store),),
        Parallel(),
        Peers.alone(),
        said.append,
    )
    initial = load_initial(run_of)
    fresh = {name: initial.state[name] for name in ("encoder", "head", "teacher_head")}
    fresh = {name: _zeros(tree) for name, tree in fresh.items()}
    fresh["teacher_head"] = {"output": {"kernel": np.zeros((3, 2), np.float32)}}
    fresh["label_head"] = {"bias": np.zeros(1, np.float32)}
    started = starting_from(run_of, initial)(fresh)
    for name in ("encoder", "head"):
        saved = flatten_arrays(initial.state[name])
        assert {key: leaf.tobytes() for key, leaf in flatten_arrays(started[name]).items()} == {
            key: leaf.tobytes() for key, leaf in saved.items()
        }
    for name in ("teacher_head", "label_head"):
        assert started[name] is fresh[name]
    assert said[0].endswith(": encoder, head; fresh: teacher_head, label_head")


def _zeros(tree):
    return {key: _zeros(value) if isinstance(value, dict) else np.zeros_like(value) for key, value in tree.items()}


@pytest.mark.slow
def test_fine_tuning_continues_bit_for_bit_and_its_origin_is_recorded(smoke_config, finished, init, tmp_path):
    """Stopped after the checkpoint of step 3 of 6 by removing what came later."""
    changes = {
        "stages": ("student", "evaluation", "report"),
        "student.init": init,
        "teacher.path": str(finished / "teacher" / "export"),
        "student.train.checkpoint_every": "3 steps",
    }
    run(smoke_config(**changes), tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts" / "student" / "checkpoints" / "6")
    shutil.rmtree(tmp_path / "parts" / "student" / "export")
    run(smoke_config(**changes | {"stages": ("student",)}), tmp_path / "parts")
    exports = [load_params(tmp_path / name / "student" / "export") for name in ("whole", "parts")]
    assert exports[0].meta["fingerprint"] == exports[1].meta["fingerprint"]
    origin = load_params(init).meta
    assert exports[0].meta["initial"]["fingerprint"] == origin["fingerprint"] != exports[0].meta["fingerprint"]
    record = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert record["fingerprints"] == {"student.init": origin["fingerprint"]}
    report = json.loads((tmp_path / "whole" / "report.json").read_text())
    assert report["run"]["fingerprints"]["student.init"] == origin["fingerprint"]
    assert report["run"]["separation"]["warnings"] == []

    moved = tmp_path / "other"
    state, meta = load_params(init)
    save_params(moved, {**state, "encoder": {**state["encoder"]}}, {**meta, "fingerprints": {"data": "elsewhere"}})
    shutil.rmtree(tmp_path / "parts" / "student" / "export")
    with pytest.raises(UserError, match="another config: student.init"):
        run(smoke_config(**changes | {"student.init": str(moved)}), tmp_path / "parts")
