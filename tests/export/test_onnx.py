"""ONNX files against JAX, in onnxruntime; skipped without the extra `export`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import accdistill_jax as ad
from accdistill_jax.errors import UserError
from accdistill_jax.export.onnx_file import OPSETS, onnx_model, write_onnx
from accdistill_jax.export.plain import plain_encoder
from tests.export.test_export import FORMS, Untrained

onnx = pytest.importorskip("onnx", reason="the extra `export` is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")

from accdistill_jax.export.onnx_weights import quantised  # noqa: E402 - imports onnx


def run(model, signal):
    content = model if isinstance(model, bytes) else model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (embedding,) = session.run(None, {"signal": signal})
    return embedding


@pytest.fixture(scope="module")
def signal():
    noise = np.random.default_rng(0).normal(0, 0.003, (5, 3840, 3))
    return (noise + np.array([0.0, 0.6, 0.8])).astype(np.float32)


@pytest.mark.parametrize(
    ("architecture", "inputs", "opset"), [(*form, OPSETS[number % 2]) for number, form in enumerate(FORMS)]
)
def test_embeddings_agree_for_every_batch_size(architecture, inputs, opset, signal):
    plain = plain_encoder(Untrained(architecture, inputs))
    model = onnx_model(plain, opset=opset)
    reference = np.asarray(jax.jit(plain.apply)(plain.params, signal))
    for rows in (1, 2, 5):
        np.testing.assert_allclose(run(model, signal[:rows]), reference[:rows], atol=1e-5)
    assert model.opset_import[0].version == opset
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_a_trained_student_and_teacher_with_their_contract(finished, signal, tmp_path):
    for part, channels in (("student", 3), ("teacher", 2)):
        encoder = ad.load(finished, part=part)
        (path, *_) = encoder.export(tmp_path / part)
        np.testing.assert_allclose(
            run(path.read_bytes(), signal[..., :channels]), encoder.encode(signal[..., :channels]), atol=1e-5
        )
        contract = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
        assert contract["fingerprint"] == encoder.fingerprint and contract["rate_hz"] == "64.0"
        assert "Apache" in contract["licence"] and contract["window_s"] == "60.0"


def test_int8_weights_stay_close_and_are_smaller(finished, signal, tmp_path):
    encoder = ad.load(finished)
    path, small = write_onnx(plain_encoder(encoder), tmp_path, int8=True)
    assert small.stat().st_size < path.stat().st_size
    full, rounded = run(path.read_bytes(), signal), run(small.read_bytes(), signal)
    cosine = np.sum(full * rounded, 1) / np.linalg.norm(full, axis=1) / np.linalg.norm(rounded, axis=1)
    assert 0 < np.abs(full - rounded).max() and cosine.min() > 0.999


def test_with_int8_weights_a_minute_has_the_same_embedding_in_every_batch(finished, signal, tmp_path):
    _, small = write_onnx(plain_encoder(ad.load(finished)), tmp_path, int8=True)
    shaken = signal[:2] + np.array([[[0.0]], [[1.0]]]) * np.sin(np.arange(3840))[None, :, None]
    alone, together = (run(small.read_bytes(), x.astype(np.float32)) for x in (signal[:1], shaken))
    np.testing.assert_allclose(together[:1], alone, atol=1e-4)


def test_rounded_weights_are_within_half_a_step():
    weights = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32) * np.array([1, 10, 0, 1e-3], np.float32)
    integers, scale = quantised(weights)
    assert integers.dtype == np.int8 and (np.abs(integers * scale - weights) <= 0.501 * scale).all()


def test_an_operation_without_a_translation_is_named(signal):
    untrained = Untrained(*FORMS[0])
    plain = plain_encoder(untrained)
    sorting = type(plain)(
        lambda params, x: jnp.sort(x, axis=1).mean(axis=1), plain.params, plain.shape, plain.contract, plain.branch
    )
    with pytest.raises(UserError, match="operation sort, which has no ONNX form"):
        onnx_model(sorting)
    with pytest.raises(UserError, match="opset 9 is not one of 18, 23"):
        onnx_model(plain, opset=9)


OPERATIONS = {
    "powers": lambda x: x**2 + x**3 + jax.lax.rsqrt(1 + jnp.square(x)),
    "comparisons": lambda x: jnp.where(x > 0.5, jnp.exp(-x), jnp.minimum(x, 0.25)),
    "padding": lambda x: jnp.pad(x, ((0, 0), (2, 1), (0, 0)), constant_values=0.5),
    "edges": lambda x: jnp.pad(x, ((0, 0), (2, 1), (0, 0)), mode="edge"),
    "products": lambda x: jnp.einsum("btc,bsc->bts", x[:, :40], x[:, 40:70]),
    "rows": lambda x: x.reshape(-1, 6) @ np.arange(12.0, dtype=np.float32).reshape(6, 2),
    "reductions": lambda x: jnp.concatenate([x.max(1), x.min(1), x.sum(1), x.std(1)], axis=1),
    "strides": lambda x: jax.lax.slice_in_dim(x, 5, 100, 3, axis=1),
    "from the end": lambda x: x[:, -7:],
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_agree(name, signal):
    plain = plain_encoder(Untrained(*FORMS[0]))
    changed = type(plain)(
        lambda params, x: OPERATIONS[name](x), plain.params, plain.shape, plain.contract, plain.branch
    )
    expected = np.asarray(OPERATIONS[name](jnp.asarray(signal)))
    np.testing.assert_allclose(run(onnx_model(changed), signal), expected, rtol=1e-5, atol=1e-5)


def test_the_card_states_the_cost_of_int8_weights_on_test_people(copy, tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    encoder = ad.load(copy)
    card = encoder.export(tmp_path / "with", formats=["onnx"], int8=True)[-1].read_text()
    section = card.partition("## Cost of int8 weights")[2].partition("\n## ")[0]
    assert "test people" in section and "| heart rate (bpm) |" in section and "difference" in section
    assert "Cost of int8" not in encoder.export(tmp_path / "without", formats=["onnx"])[-1].read_text()
    (copy / "config.json").unlink()
    card = encoder.export(tmp_path / "alone", formats=["onnx"], int8=True)[-1].read_text()
    assert "int8 weights" not in card  # its run's stores are not at hand
