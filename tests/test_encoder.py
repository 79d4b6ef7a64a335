"""Students built from exports, those of earlier versions too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from accdistill_jax.encoder import student_of
from accdistill_jax.models.heads import LinearHead, ProjectionHead
from accdistill_jax.models.transformer import TransformerEncoder
from accdistill_jax.objectives.distillation import Distillation
from accdistill_jax.objectives.supervised import Supervised

SAMPLES, WIDTH = 64, 8
HEAD = ProjectionHead(hidden=6, output=4)
# As the first version wrote it: no objective, no residual, inputs without a simulated sensor.
TRANSFORMER = {
    "patch": 16,
    "width": WIDTH,
    "depth": 1,
    "heads": 2,
    "mlp": 8,
    "tokenizer": [[4, 6]],
    "positions": "sinusoidal",
    "output": 0,
}
META = {
    "kind": "student",
    "encoder": {"architecture": "transformer", "transformer": TRANSFORMER},
    "head": {"hidden": 6, "output": 4},
    "signal": {"modality": "accel", "inputs": {"bands": "full", "scale": "std", "limit": 0.0}},
    "fingerprint": "0" * 64,
}
ENCODER = TransformerEncoder(**TRANSFORMER | {"tokenizer": ((4, 6),)})


def batch():
    values = np.random.default_rng(0).integers(-900, 900, (2, SAMPLES, 3)).astype(np.int16)
    per_channel = {"accel_scale": np.full((2, 3), 1e-3, np.float32), "accel_offset": np.zeros((2, 3), np.float32)}
    return {"accel": values, **per_channel}


def of(module, *inputs):
    return jax.device_get(module.init(jax.random.key(3), *inputs)["params"])


@pytest.fixture(scope="module")
def encoder_params():
    return of(ENCODER, jnp.zeros((1, SAMPLES, 3)))


def student(params, **meta):
    return student_of(params, META | meta, dtype=jnp.dtype("float32"))


@pytest.mark.slow
def test_a_student_of_the_first_version_is_a_distilled_one(encoder_params):
    head, teacher_head = of(HEAD, jnp.zeros((1, WIDTH))), of(HEAD, jnp.zeros((1, 5)))
    loaded = student({"encoder": encoder_params, "head": head, "teacher_head": teacher_head})
    assert loaded.objective is Distillation and loaded.branch.encoder == ENCODER
    represented = loaded.represent(loaded.params, batch())
    expected = ENCODER.apply({"params": encoder_params}, loaded.branch.prepare(batch()))
    np.testing.assert_array_equal(represented["embedding"], expected)
    np.testing.assert_array_equal(represented["projection"], HEAD.apply({"params": head}, expected))
    standard = np.random.default_rng(1).normal(size=(2, 5)).astype(np.float32)
    np.testing.assert_array_equal(
        loaded.project_teacher(loaded.params, standard), HEAD.apply({"params": teacher_head}, standard)
    )


@pytest.mark.slow
def test_a_student_by_regression_is_compared_in_the_teachers_own_space(encoder_params):
    head = LinearHead(5)
    loaded = student({"encoder": encoder_params, "regression_head": of(head, jnp.zeros((1, WIDTH)))}, head=None)
    projection = np.asarray(loaded.represent(loaded.params, batch())["projection"])
    assert projection.shape == (2, 5)
    np.testing.assert_allclose(np.linalg.norm(projection, axis=1), 1, rtol=1e-5)
    standard = np.array([[3.0, 0, 0, 0, 4]], np.float32)
    np.testing.assert_allclose(loaded.project_teacher(loaded.params, standard), [[0.6, 0, 0, 0, 0.8]], rtol=1e-5)


def test_a_supervised_student_predicts_in_the_labels_unit_and_has_no_projection(encoder_params):
    head = of(LinearHead(1), jnp.zeros((1, WIDTH)))
    params = {"encoder": encoder_params, "label_head": head, "label_mean": np.float32(70), "label_std": np.float32(8)}
    loaded = student(params, objective="supervised", head=None)
    represented = loaded.represent(params, batch())
    assert loaded.objective is Supervised and set(represented) == {"embedding", "prediction"}
    standard = LinearHead(1).apply({"params": head}, represented["embedding"])[:, 0]
    np.testing.assert_allclose(represented["prediction"], 70 + 8 * standard, rtol=1e-6)
    assert loaded.project_teacher(params, np.ones((1, 5), np.float32)) is None
    with pytest.raises(ValueError, match="no PPG encoder"):
        loaded.represent_ppg(params, batch())


def test_a_joint_student_brings_its_ppg_encoder(encoder_params):
    ppg = of(ENCODER, jnp.zeros((1, SAMPLES, 2)))
    heads = {name: of(HEAD, jnp.zeros((1, WIDTH))) for name in ("head", "teacher_head")}
    params = {"encoder": encoder_params, "teacher": ppg, **heads}
    signal = META["signal"] | {"modality": "ppg"}
    loaded = student(params, objective="joint", ppg_encoder=META["encoder"], ppg_signal=signal)
    ppg_batch = {name.replace("accel", "ppg"): values[..., :2] for name, values in batch().items()}
    represented = loaded.represent_ppg(params, ppg_batch)
    assert represented["embedding"].shape == (2, WIDTH) and represented["projection"].shape == (2, 4)


def test_the_untrained_encoder_is_drawn_by_a_key_of_its_own(encoder_params):
    loaded = student({"encoder": encoder_params}, objective="masked", head=None)
    first, second = (jax.tree.leaves(loaded.initial(batch())) for _ in range(2))
    for a, b, trained in zip(first, second, jax.tree.leaves(encoder_params), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.shape == trained.shape
