"""The contest of training steps: PyTorch computes the same step; unsupported configs are left out; the tables are complete."""

import contextlib
import importlib.util
import json
import sys

import jax
import numpy as np
import pytest

from accdistill_jax.benchmark import __main__ as command
from accdistill_jax.benchmark.commands import step
from accdistill_jax.benchmark.contenders import masking, peer_pytorch
from accdistill_jax.benchmark.contest import Measured, Skipped
from accdistill_jax.config.convert import changed
from accdistill_jax.config.load import load_config
from accdistill_jax.errors import UserError
from accdistill_jax.models.autoencoder import MaskedAutoencoder, random_order
from accdistill_jax.models.transformer import TransformerEncoder
from accdistill_jax.runtime import cpu_devices

SMALL = [
    f"--config.{who}.encoder.transformer.{name}={value}"
    for who in ("teacher", "student")
    for name, value in {"patch": 240, "width": 16, "depth": 2, "heads": 2, "mlp": 32}.items()
]
CORES = 2
HAS_TORCH = importlib.util.find_spec("torch") is not None


OTHER = """#!/bin/sh
case "$2" in *version*) echo 9.9 ;; *) exec {python} "$@" ;; esac
"""


def measure(tmp_path, *arguments):
    path = tmp_path / "found.json"
    assert command.main(["step", "--rounds=1", "--round-s=0.01", "--batch=4", f"--json={path}", *arguments]) == 0
    return json.loads(path.read_text())


@pytest.mark.long
def test_the_peer_computes_the_same_step(tmp_path, capsys, monkeypatch):
    """Loss and gradient norm of three steps with PyTorch's attention, optimiser and clipping; also split over devices."""
    monkeypatch.delenv("XLA_FLAGS")  # the suite sets several devices
    monkeypatch.setattr(cpu_devices, "available_cores", lambda: CORES)
    other = tmp_path / "python"
    other.write_text(OTHER.format(python=sys.executable))
    other.chmod(0o755)
    record = measure(tmp_path, "--only=distil", "--compile-mode=none", f"--other-python={other}", *SMALL)
    results, text = record["distillation"], capsys.readouterr().out
    ours = results[step.OURS]["facts"]["first_steps"]
    assert len(ours) == step.FOLLOW_STEPS and ours[0]["loss"] != ours[2]["loss"]
    assert results[step.OURS]["seconds"] and results[step.AS_TRAINED]["seconds"] and results[step.PEAK]["seconds"]
    others = {f"{step.OURS}, jax 9.9", f"{step.PER_CORE}, jax 9.9"}
    assert set(record["parity"]) == {step.PER_CORE} | others | ({step.EAGER, step.AS_INSTALLED} if HAS_TORCH else set())
    assert max(record["parity"].values()) < 1e-4 and results[step.PER_CORE]["facts"]["devices"] == CORES
    assert [results[name]["facts"]["devices"] for name in sorted(others)] == [CORES, 1]
    if HAS_TORCH:
        assert "; jax 9.9: " in text and "; each core a device, jax 9.9: " in text
        assert len(results[step.EAGER]["seconds"]) == 1
        assert 0 < results[step.EAGER]["facts"]["parameter_difference"] < 2e-3
    else:
        assert "PyTorch is not installed" in text
    assert (
        "share of the matrix peak" in text
        and "Limits: the step's matrix products" in text
        and "Attention: a few segments at a time" in text
        and "GFLOP per segment" in text
    )


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("student.encoder.architecture", "efficientnet", "only a student that is a Transformer"),
        ("teacher.encoder.transformer.positions", "relative", "only a teacher that is a Transformer"),
        ("student.encoder.transformer.stem", ((8, 4, 4),), "only a student that is a Transformer on linear patches"),
        ("inputs.accel.limit", 4.0, "presents accel by its full band"),
        ("student.drop_fraction", 0.5, "drops no tokens"),
        ("teacher.cached_views", 1, "runs the teacher in every step"),
        ("student.contrast.temperature_bounds", (0.01, 1.0), "InfoNCE with a fixed temperature alone"),
    ],
)
def test_an_unsupported_config_leaves_the_peer_out(key, value, message):
    config = changed(load_config("distill:paper-literal"), {key: value})
    with pytest.raises(Skipped, match=message):
        peer_pytorch.check_supported(step.without_augmentation(config))
    peer_pytorch.check_supported(step.without_augmentation(load_config("distill:paper-literal")))


@pytest.mark.long
def test_masking(tmp_path, capsys):
    record = measure(tmp_path, "--only", "mae", *SMALL)
    rounds = {name: len(measured["seconds"]) for name, measured in record["masking"].items()}
    assert rounds == {step.MASKED: 1, step.UNMASKED: 1}
    assert "on 3 of 16 tokens" in capsys.readouterr().out


def test_a_peer_that_computes_a_different_step_is_refused():
    def measured(loss):
        return Measured(
            {"first_steps": [{"loss": 1.0, "gradient_norm": 2.0}, {"loss": loss, "gradient_norm": 2.0}]}, [1.0], 0
        )

    left_out = Measured({"skipped": "none here"}, [], 0)
    results = {step.OURS: measured(0.5), step.EAGER: measured(0.50004), step.COMPILED: left_out}
    assert step.check_parity(results, "float32") == {step.EAGER: pytest.approx(8e-5)}
    with pytest.raises(UserError, match="PyTorch eager does not compute the same step.* 2.0e-03"):
        step.check_parity(results | {step.EAGER: measured(0.501)}, "float32")


@pytest.mark.parametrize("name", [step.PER_CORE, f"{step.OURS}, jax 9.9"])
def test_a_split_step_or_one_by_another_jax_that_differs_is_refused(name):
    steps = {"loss": 1.0, "gradient_norm": 2.0}
    results = {step.OURS: Measured({"first_steps": [steps]}, [1.0], 0)}
    results[name] = Measured({"first_steps": [steps | {"gradient_norm": 2.1}]}, [1.0], 0)
    with pytest.raises(UserError, match=f"{name} does not compute the same step"):
        step.check_parity(results, "float32")


@pytest.mark.parametrize(
    "script, message",
    [
        (None, "No such file"),
        ("echo 'ModuleNotFoundError: none here' >&2; exit 1", r"no JAX in its environment \(ModuleNotFoundError: none"),
    ],
)
def test_another_python_that_cannot_be_used_is_named(tmp_path, script, message):
    python = tmp_path / "python"
    if script:
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o755)
    with pytest.raises(UserError, match=f"--other-python {python}: {message}"):
        step.jax_version(str(python))


@pytest.mark.parametrize(
    "cores, batch, environment, devices",
    [
        (2, 32, {}, 2),
        (1, 32, {}, 0),
        (12, 32, {}, 0),  # 32 is not a multiple of 12
        (2, 32, {"JAX_NUM_CPU_DEVICES": "4"}, 0),
        (2, 32, {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}, 0),
        (4, 32, {"XLA_FLAGS": "--xla_cpu_enable_fast_math=true"}, 4),
    ],
)
def test_cores_are_devices_if_they_can_share_the_batch(monkeypatch, cores, batch, environment, devices):
    for name in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cpu_devices, "available_cores", lambda: cores)
    assert step.cores_as_devices(batch) == devices


@pytest.mark.parametrize("apart, refused", [(1e-3, False), (1e-2, True)])
def test_a_peer_whose_parameters_differ_is_refused(apart, refused):
    steps = [{"loss": 1.0, "gradient_norm": 2.0}] * step.FOLLOW_STEPS
    ours = Measured({"first_steps": steps}, [1.0], 0)
    results = {
        step.OURS: ours,
        step.compiled_name("max-autotune"): ours._replace(facts=ours.facts | {"parameter_difference": apart}),
    }
    with (
        pytest.raises(UserError, match="max-autotune does not train the same") if refused else contextlib.nullcontext()
    ):
        step.check_parity(results, "float32")


def test_distance_of_parameters_is_relative_to_their_movement():
    start = {"a": np.zeros(4), "qkv/bias": np.zeros(2)}
    ours, theirs = {"a": np.ones(4), "qkv/bias": np.ones(2)}, {"a": np.full(4, 1.1), "qkv/bias": -np.ones(2)}
    assert peer_pytorch.parameter_difference(start, ours, theirs) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="different parameters"):
        peer_pytorch.parameter_difference(start, ours, {"a": ours["a"]})


@pytest.mark.slow
def test_encoder_on_all_tokens_is_the_same_model_on_hidden_patches():
    encoder = TransformerEncoder(patch=20, width=16, depth=1, heads=2, mlp=24)
    model = MaskedAutoencoder(encoder, patch=20, keep=3, decoder_width=8, decoder_depth=1, decoder_heads=2)
    every = masking.on_all_tokens(model)
    x, order = (
        jax.random.normal(jax.random.key(0), (2, 240, 1)),
        random_order(jax.random.split(jax.random.key(1), 2), 12),
    )
    params = model.init(jax.random.key(2), x, order)
    prediction, _ = every.apply(params, x, order)
    assert prediction.shape == model.apply(params, x, order)[0].shape
    changed = x.reshape(2, 12, 20, 1).at[np.arange(2)[:, None], order[:, 3:]].set(5.0).reshape(x.shape)
    # The values of dropped patches have no effect.
    np.testing.assert_allclose(every.apply(params, changed, order)[0], prediction, rtol=1e-6)
