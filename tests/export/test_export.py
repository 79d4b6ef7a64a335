"""Exports give the embeddings of the trained encoder, in programs without this package."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

import accdistill_jax as ad
from accdistill_jax.config.convert import changed
from accdistill_jax.config.load import load_config
from accdistill_jax.config.schema import InputSettings
from accdistill_jax.data.preprocessing.settings import PpgFilter
from accdistill_jax.errors import UserError
from accdistill_jax.export.arrays import encode_safetensors
from accdistill_jax.export.card import read_report
from accdistill_jax.export.plain import plain_encoder
from accdistill_jax.export.stablehlo import exported
from accdistill_jax.models.build import build_encoder
from accdistill_jax.objectives.base import Branch


@pytest.fixture(scope="module")
def encoder(finished):
    return ad.load(finished)


@pytest.fixture(scope="module")
def signal():
    """Five minutes of a still wrist [5, 3840, 3] in g."""
    noise = np.random.default_rng(0).normal(0, 0.003, (5, 3840, 3))
    return (noise + np.array([0.0, 0.6, 0.8])).astype(np.float32)


STEM = {"student.encoder.transformer.tokenizer": (), "student.encoder.transformer.stem": ((8, 7, 2), (12, 8, 4))}


class Untrained:
    """An encoder with initial parameters, of any architecture and input form."""

    modality, rate_hz, samples, channels, unit, fingerprint, data = "accel", 64.0, 3840, 3, "g", "f00d", ""
    ppg_filter = PpgFilter()

    def __init__(self, architecture, inputs):
        changes = STEM if architecture == "stem" else {"student.encoder.architecture": architecture}
        config = changed(load_config("distill:smoke"), changes).student.encoder
        module = build_encoder(config, dtype=np.dtype("float32"))
        self.branch = Branch("accel", module, inputs)
        self.parameters, self.embedding_size = 0, module.embedding_width
        ones = np.ones((1, 3), np.float32)
        batch = {"accel": np.zeros((1, 3840, 3), np.float32), "accel_scale": ones, "accel_offset": 0 * ones}
        self.params = module.init(jax.random.key(0), self.branch.prepare(batch))["params"]


FORMS = [
    ("transformer", InputSettings(bands="low+high")),
    ("transformer", InputSettings(bands="low+high+envelope", scale="robust", limit=3.0)),
    ("transformer", InputSettings(bands="low+high+beat", limit=4.0)),
    ("transformer", InputSettings(bands="full", limit=0.0)),
    ("efficientnet", InputSettings(bands="high")),
    ("stem", InputSettings(bands="full+breathing")),
]


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "inputs"), FORMS)
def test_the_plain_form_has_no_barrier_no_library_call_and_no_batch_size(architecture, inputs, signal):
    untrained = Untrained(architecture, inputs)
    plain = plain_encoder(untrained)
    program = exported(plain)
    text = program.mlir_module()
    calls = [line for line in text.splitlines() if "custom_call" in line and "shape_assertion" not in line]
    assert "optimization_barrier" not in text and not calls
    assert program.platforms == ("cpu", "cuda", "tpu") and str(program.in_avals[0].shape) == "(b, 3840, 3)"
    reference = np.asarray(jax.jit(plain.apply)(plain.params, signal))  # in the forms for this CPU
    np.testing.assert_allclose(np.asarray(program.call(signal)), reference, atol=1e-5)


def test_stablehlo_runs_in_a_process_with_jax_alone(encoder, signal, tmp_path):
    encoder.export(tmp_path, formats=["stablehlo"])
    np.save(tmp_path / "signal.npy", signal)
    program = (
        "import jax, numpy as np, sys; e = jax.export.deserialize(bytearray(open('encoder.stablehlo', 'rb').read()));"
        "np.save('embedding.npy', np.asarray(e.call(np.load('signal.npy')))); assert 'accdistill_jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, timeout=120)
    np.testing.assert_allclose(np.load(tmp_path / "embedding.npy"), encoder.encode(signal), atol=1e-5)


def test_the_numpy_program_of_the_card_runs_and_agrees(encoder, signal, tmp_path):
    encoder.export(tmp_path, formats=["npz"])
    card = (tmp_path / "MODEL_CARD.md").read_text()
    (program,) = [
        block.split("```")[0] for block in card.split("```python\n") if "def embed_signal(" in block.split("```")[0]
    ]
    (tmp_path / "reader.py").write_text(program)
    assert program == (tmp_path / "encoder.py").read_text()
    np.save(tmp_path / "signal.npy", signal)
    arguments = [sys.executable, "reader.py", "encoder.npz", "signal.npy", "embedding.npy"]
    subprocess.run(arguments, cwd=tmp_path, check=True, timeout=60)
    np.testing.assert_allclose(np.load(tmp_path / "embedding.npy"), encoder.encode(signal), atol=1e-5)


@pytest.mark.parametrize(("architecture", "inputs"), [*FORMS[1:4], FORMS[5]])
def test_the_numpy_program_reads_every_input_form(architecture, inputs, signal, tmp_path):
    from accdistill_jax.export import numpy_reader
    from accdistill_jax.export.arrays import write_npz

    plain = plain_encoder(Untrained(architecture, inputs))
    path, _ = write_npz(plain, tmp_path)
    embedding = numpy_reader.embed_signal(*numpy_reader.read_weights(path), signal)
    np.testing.assert_allclose(embedding, np.asarray(jax.jit(plain.apply)(plain.params, signal)), atol=1e-5)


@pytest.mark.slow
def test_an_architecture_without_a_reader_says_so(signal, tmp_path):
    from accdistill_jax.export.writing import write_export

    files = write_export(Untrained("efficientnet", InputSettings()), tmp_path, formats=["npz"])
    assert [file.name for file in files] == ["encoder.npz", "MODEL_CARD.md"]
    assert "No numpy reader" in files[-1].read_text() and "No report" in files[-1].read_text()


def test_the_card_has_contract_results_data_and_limits(encoder, finished, tmp_path):
    files = encoder.export(tmp_path, formats=["stablehlo", "npz"])
    card = files[-1].read_text()
    report = read_report(encoder.path)
    error = report["evaluation"]["targets"]["hr_bpm"]["probes"]["student"]["mae"]["value"]
    for part in (encoder.fingerprint, "Not a medical device", "Synthetic people", f"{error:.3g}", "gravity included"):
        assert part in card, part
    assert "own mean" in card and "low+high" in card.replace("\\", "") and "64" in card


def test_safetensors_hold_the_weights(encoder, tmp_path):
    encoder.export(tmp_path, formats=["safetensors"])
    content = (tmp_path / "encoder.safetensors").read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    assert size % 8 == 0 and header["__metadata__"]["fingerprint"] == encoder.fingerprint
    name = "token.kernel"
    start, end = header[name]["data_offsets"]
    values = np.frombuffer(content[8 + size + start : 8 + size + end], "<f4").reshape(header[name]["shape"])
    np.testing.assert_array_equal(values, np.asarray(encoder.params["token"]["kernel"]))
    with pytest.raises(UserError, match="only float32"):
        encode_safetensors({"a": np.zeros(2)}, {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"formats": ["tflite"]}, "format 'tflite' is not one of onnx, stablehlo, npz, safetensors"),
        ({"formats": []}, "no format given"),
        ({"formats": ["npz"], "int8": True}, "int8 weights are written for ONNX only"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(encoder, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        encoder.export(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_a_file_is_named(encoder, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match="cannot write into .*out"):
        encoder.export(tmp_path / "out", formats=["npz"])
