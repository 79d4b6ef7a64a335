"""The budget of an exported student for a watch; skipped without the extra `export`."""

import json

import numpy as np
import pytest

from accdistill_jax.benchmark import __main__ as command
from accdistill_jax.benchmark.commands import watch
from accdistill_jax.benchmark.contenders.exported import student
from accdistill_jax.benchmark.model.onnx_size import activation_bytes
from accdistill_jax.config.convert import changed
from accdistill_jax.config.load import load_config

onnx = pytest.importorskip("onnx", reason="the extra `export` is not installed")
pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")


@pytest.mark.slow
def test_three_sizes_are_measured_with_both_kinds_of_weights(tmp_path, capsys):
    path = tmp_path / "watch.json"
    assert command.main(["watch", "--rounds=1", "--round-s=0.01", f"--json={path}"]) == 0
    students, text = json.loads(path.read_text())["students"], capsys.readouterr().out
    assert list(students) == [f"{size}, {weights}" for size in watch.SIZES for weights in watch.WEIGHTS]
    facts = [measured["facts"] for measured in students.values()]
    for full, rounded in zip(facts[::2], facts[1::2], strict=True):
        assert rounded["file_bytes"] < full["file_bytes"] and rounded["parameters"] == full["parameters"]
    sizes = [full["parameters"] for full in facts[::2]]
    assert 4.5 < sizes[0] / sizes[1] < 6 and 17 < sizes[0] / sizes[2] < 23
    assert all(name in text for name in students)


def test_an_architecture_without_these_sizes_is_refused(capsys):
    assert command.main(["watch", "--config.student.encoder.architecture=efficientnet"]) != 0
    assert "watch compares sizes of the transformer" in capsys.readouterr().err


def test_a_student_needs_no_run():
    config = changed(load_config("distill:smoke"), {"evaluation.representation": "mean"})
    encoder = student(config)
    embedding = encoder.encode(np.random.default_rng(0).normal(size=(2, 3840, 3)).astype(np.float32))
    assert embedding.shape == (2, encoder.embedding_size) and np.isfinite(embedding).all()


def test_activations_are_the_most_that_is_held_at_once():
    """Held: x (400 bytes), then a, b (400 each), then their sum; a view and a scaled weight take no memory."""
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Mul", ["weight", "weight"], ["scaled"]),
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Reshape", ["a", "flat"], ["view"]),
        helper.make_node("Mul", ["view", "scaled"], ["b"]),
        helper.make_node("Add", ["view", "b"], ["y"]),
    ]
    constants = [
        onnx.numpy_helper.from_array(np.ones(100, np.float32), "weight"),
        onnx.numpy_helper.from_array(np.array([-1, 100]), "flat"),
    ]
    inputs, outputs = (
        [helper.make_tensor_value_info(name, floats, shape)]
        for name, shape in (("x", ["batch", 10, 10]), ("y", ["batch", 100]))
    )
    model = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs, constants), opset_imports=[helper.make_opsetid("", 18)]
    )
    assert activation_bytes(model) == 3 * 400
