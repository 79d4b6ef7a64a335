"""Heads on windows of tokens, and regression onto the teacher's tokens, in the objectives that have them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from accdistill_jax.config.schema import InputSettings
from accdistill_jax.errors import UserError
from accdistill_jax.inputs.prepare import prepare_inputs
from accdistill_jax.models.efficientnet import EfficientNetEncoder, Stage
from accdistill_jax.models.heads import ProjectionHead
from accdistill_jax.models.transformer import TransformerEncoder
from accdistill_jax.objectives.base import PROGRESS, Branch
from accdistill_jax.objectives.contrast import CrossModalContrast
from accdistill_jax.objectives.contrastive import Contrastive
from accdistill_jax.objectives.distillation import Distillation, DistillationLoss
from accdistill_jax.objectives.joint import JointTraining
from accdistill_jax.objectives.teacher_reading import TEACHER
from accdistill_jax.runtime.parallel import Parallel
from accdistill_jax.training.optimizer import Optimizer
from accdistill_jax.training.optimizer_state import Replicated
from accdistill_jax.training.step import LoopSettings, batch_keys, initial_state, make_step, make_validation

BATCH, LENGTH, WINDOWS = 8, 48, 3
SETTINGS = LoopSettings(total_steps=4, validate_every=4, checkpoint_every=4, log_every=1, ema_decay=0.0, seed=3)
HEAD = ProjectionHead(hidden=8, output=4, windows=WINDOWS)
SGD = Optimizer(optax.sgd(1.0), optax.constant_schedule(1.0))
TEACHER_WIDTH = 6


def encoder(patch, width=8):
    """Tokens and their norm alone, without an output layer, as the stages build it for windows."""
    return TransformerEncoder(patch=patch, width=width, depth=0, heads=2, mlp=8)


STUDENT, PPG = encoder(4), encoder(8, TEACHER_WIDTH)  # 12 and 6 tokens
CONVOLUTIONS = EfficientNetEncoder(stem=(4, 3, 2), stages=(Stage(4, 1, 2, 3, 1),), head=8, output=8)


def make_batch(seed=0):
    rng = np.random.default_rng(seed)
    batch = {"position": np.arange(BATCH, dtype=np.int32)}
    for modality, channels in (("ppg", 2), ("accel", 3)):
        batch[modality] = rng.integers(-32000, 32000, (BATCH, LENGTH, channels)).astype(np.int16)
        batch[f"{modality}_scale"] = rng.uniform(1e-5, 1e-4, (BATCH, channels)).astype(np.float32)
        batch[f"{modality}_offset"] = rng.normal(size=(BATCH, channels)).astype(np.float32)
    return batch


def keys_of(step=0):
    return batch_keys(3, jnp.int32(step), np.arange(BATCH, dtype=np.int32))


PLAIN = CrossModalContrast(0.1, 0.5)
SIGMOID = CrossModalContrast(0.1, 0.5, "sigmoid", (0.02, 1.0), -2.0)


def distilling(*, student=STUDENT, head=HEAD, drop=0.0, contrast=PLAIN, **terms):
    return Distillation(
        Branch("accel", student, InputSettings(), head),
        Branch("ppg", PPG, InputSettings(), head),
        DistillationLoss(contrast, **terms),
        drop_fraction=drop,
    )


FORMS = {
    "windows": distilling(),
    "windows of a feature map": distilling(student=CONVOLUTIONS),
    "tokens": distilling(head=ProjectionHead(8, 4), token_weight=2.0),
    "windows and tokens, dropped": distilling(token_weight=2.0, token_schedule="linear", drop=0.5),
    "sigmoid with a learned temperature, dropped": distilling(contrast=SIGMOID, token_weight=0.5, drop=0.5),
    "joint with a learned temperature": JointTraining(
        Branch("accel", STUDENT, InputSettings(), HEAD),
        Branch("ppg", PPG, InputSettings(), HEAD),
        CrossModalContrast(0.1, 0.5, temperature_bounds=(0.02, 1.0)),
    ),
    "all": distilling(token_weight=2.0, token_schedule="linear", regression_weight=0.5),
    "joint": JointTraining(
        Branch("accel", STUDENT, InputSettings(), HEAD),
        Branch("ppg", PPG, InputSettings(), HEAD),
        CrossModalContrast(0.1, 0.5),
    ),
    "contrastive": Contrastive(Branch("accel", STUDENT, InputSettings(), HEAD), "segment", 0.1, 0.1, 0.9),
}


QUICK = ("all",)


@pytest.fixture(scope="module")
def frozen():
    params = jax.jit(PPG.init)(jax.random.key(9), jnp.zeros((1, LENGTH, 2)))["params"]
    rng, statistics = np.random.default_rng(1), {}
    for prefix in ("", "token_"):
        statistics[f"{prefix}mean"] = rng.normal(size=TEACHER_WIDTH).astype(np.float32)
        statistics[f"{prefix}std"] = rng.uniform(0.5, 2, TEACHER_WIDTH).astype(np.float32)
    return jax.device_get({"params": params} | statistics)


def initial(objective):
    return jax.device_get(jax.jit(objective.init)(jax.random.key(0), make_batch()))


def standard_tokens(frozen, batch):
    tokens = PPG.apply(
        {"params": frozen["params"]}, prepare_inputs(batch, "ppg", InputSettings()), method="encode"
    ).tokens
    return (np.asarray(tokens) - frozen["token_mean"]) / frozen["token_std"]


def student_tokens(params, batch):
    x = prepare_inputs(batch, "accel", InputSettings())
    return np.asarray(STUDENT.apply({"params": params["encoder"]}, x, method="encode").tokens)


def test_windowed_distillation_contrasts_the_means_of_tokens_in_windows(frozen):
    batch, objective = make_batch(), FORMS["windows"]
    params = initial(objective)
    value, _ = jax.jit(lambda p: objective.evaluate(p, frozen, batch, keys_of(), None))(params)
    t_windows = standard_tokens(frozen, batch).reshape(BATCH, WINDOWS, 2, -1).mean(axis=2)
    s_windows = student_tokens(params, batch).reshape(BATCH, WINDOWS, 4, -1).mean(axis=2)
    t = np.asarray(HEAD.apply({"params": params["teacher_head"]}, t_windows), np.float64)
    s = np.asarray(HEAD.apply({"params": params["head"]}, s_windows), np.float64)
    cross_entropy = lambda logits: np.mean(np.log(np.exp(logits).sum(axis=1)) - np.diag(logits))
    expected = 0.5 * cross_entropy(t @ s.T / 0.1) + 0.5 * cross_entropy(s @ t.T / 0.1)
    np.testing.assert_allclose(value, expected, rtol=1e-4)


def test_token_regression_is_the_error_of_a_linear_map_at_the_same_time(frozen):
    batch, objective = make_batch(), FORMS["tokens"]
    params = initial(objective)
    views = dict(frozen) | {PROGRESS: np.float32(0.25)}
    value, metrics = jax.jit(lambda p: objective.loss(p, views, batch, keys_of(), None))(params)
    same_time = (
        student_tokens(params, batch).reshape(BATCH, 6, 2, -1).mean(axis=2)
    )  # two tokens of the student for each
    weights = params["token_head"]["output"]
    error = same_time @ weights["kernel"] + weights["bias"] - standard_tokens(frozen, batch)
    np.testing.assert_allclose(metrics["token_regression"], np.mean(error**2), rtol=1e-4)
    contrast, _ = jax.jit(lambda p: distilling(head=ProjectionHead(8, 4)).loss(p, views, batch, keys_of(), None))(
        params
    )
    np.testing.assert_allclose(value, contrast + 2 * np.mean(error**2), rtol=1e-4)


def test_a_token_of_the_teacher_without_a_kept_token_of_its_time_does_not_count(frozen):
    batch, objective = make_batch(), FORMS["windows and tokens, dropped"]
    params, views = initial(objective), dict(frozen) | {PROGRESS: np.float32(0)}
    kept = np.asarray(objective.inputs(views, batch, keys_of(), training=True)["kept"])
    _, metrics = jax.jit(lambda p: objective.loss(p, views, batch, keys_of(), None))(params)
    weights, tokens, target = (
        params["token_head"]["output"],
        student_tokens(params, batch),
        standard_tokens(frozen, batch),
    )
    errors = []
    for row in range(BATCH):  # without blocks, a token does not depend on the others
        of_row = []
        for time in range(6):
            present = [token for token in (2 * time, 2 * time + 1) if token in kept[row]]
            if present:
                predicted = tokens[row, present].mean(axis=0) @ weights["kernel"] + weights["bias"]
                of_row.append(np.mean((predicted - target[row, time]) ** 2))
        errors.append(np.mean(of_row))
    assert min(len(set(row // 2)) for row in kept) < 6
    np.testing.assert_allclose(metrics["token_regression"], np.mean(errors), rtol=1e-4)


@pytest.mark.parametrize("schedule,expected", [("constant", [2, 2, 2, 2]), ("linear", [2, 1.5, 1, 0.5])])
def test_the_token_weight_follows_its_schedule(schedule, expected, frozen):
    objective = distilling(token_weight=2.0, token_schedule=schedule)
    parallel, layout = Parallel(devices=jax.devices()[:1]), Replicated(SGD)
    step = parallel.map(make_step(objective, layout, SETTINGS))
    start = initial_state(initial(objective), layout, SETTINGS)
    weights = []
    for number in range(4):
        state = parallel.replicate(start._replace(step=jnp.int32(number)))
        _, metrics = step(state, parallel.replicate(frozen), parallel.place(make_batch()))
        weights.append(float(metrics["token_weight"]))
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    _, metrics = parallel.map(make_validation(objective, 3))(
        parallel.replicate(start.params), parallel.replicate(frozen), parallel.place(make_batch())
    )
    assert float(metrics["token_weight"]) == (2 if schedule == "constant" else 0)


def step_of(objective, parallel, params, frozen, *, micro_batches=1):
    layout = Replicated(SGD)
    settings = SETTINGS._replace(micro_batches=micro_batches)
    state = parallel.replicate(initial_state(params, layout, settings, momentum=objective.momentum))
    step = parallel.map(make_step(objective, layout, settings))
    state, metrics = step(state, parallel.replicate(frozen), parallel.place(make_batch()))
    return parallel.fetch((state.params, metrics))


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FORMS],
)
def test_a_step_is_the_same_over_devices_and_in_pieces(name, frozen):
    objective = FORMS[name]
    params = initial(objective)
    one = step_of(objective, Parallel(devices=jax.devices()[:1]), params, frozen)
    moved = jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max(), one[0], params))
    assert max(moved) > 1e-3
    others = [
        step_of(objective, Parallel(devices=jax.devices()[:2]), params, frozen, micro_batches=2),
        step_of(objective, Parallel("pmap"), params, frozen),
    ]
    for other in others:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5), one, other)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["windows", "tokens", "windows and tokens, dropped", "sigmoid with a learned temperature, dropped", "all"],
)
def test_a_batch_with_the_teachers_quantities_needs_neither_teacher_nor_ppg(name, frozen):
    objective, batch = FORMS[name], make_batch()
    params = initial(objective)
    ppg = prepare_inputs(batch, "ppg", InputSettings())
    joined = objective.teacher_reading.joined(PPG, frozen, ppg)
    lean = {key: value for key, value in batch.items() if not key.startswith("ppg")} | {TEACHER: joined}
    views = dict(frozen) | {PROGRESS: np.float32(0.5)}
    without = {key: value for key, value in views.items() if key != "params"}
    expected = jax.jit(lambda p: objective.loss(p, views, batch, keys_of(), None)[0])(params)
    np.testing.assert_allclose(
        jax.jit(lambda p: objective.loss(p, without, lean, keys_of(), None)[0])(params), expected, rtol=1e-5
    )
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(objective.init(jax.random.key(0), lean)), params)


@pytest.mark.parametrize("name", ["windows", "all", "joint"])
def test_every_trained_part_has_a_gradient_and_the_teacher_none(name, frozen):
    objective, views = FORMS[name], dict(frozen) | {PROGRESS: np.float32(0.5)}
    loss = lambda p, f: objective.loss(p, f, make_batch(), keys_of(), None)[0]
    of_params, of_teacher = jax.jit(jax.grad(loss, (0, 1)))(initial(objective), views)
    for leaf in jax.tree.leaves(of_params):
        assert np.abs(leaf).max() > 0
    if name != "joint":
        assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(of_teacher["params"]))


def test_more_windows_than_tokens_are_refused():
    head = ProjectionHead(8, 4, windows=13)
    with pytest.raises(
        UserError, match="head.windows = 13: the accel encoder has 12 tokens in a segment; choose at most 12"
    ):
        distilling(head=head).init(jax.random.key(0), make_batch())


@pytest.mark.slow
def test_evaluation_compares_the_projections_of_training(frozen):
    """From the export's arrays alone: the statistics of the teacher's tokens are among them."""
    batch, objective = make_batch(), FORMS["windows"]
    params = initial(objective)
    rows = objective.rows(params, objective.inputs(frozen, batch, keys_of(), training=False))
    exported = objective.exported(params, frozen)
    represented = Distillation.represent(objective.student, exported, batch)
    np.testing.assert_allclose(represented["projection"], rows["student"], rtol=1e-5, atol=1e-6)
    encoded = objective.teacher.encode(frozen["params"], objective.teacher.prepare(batch))
    standard = Distillation.read_teacher(objective.student, exported, frozen, encoded)
    projection = Distillation.project_teacher(objective.student, exported, standard)
    np.testing.assert_allclose(projection, rows["teacher"], rtol=1e-5, atol=1e-6)


def test_statistics_of_tokens_are_what_evaluation_sees_if_asked_for():
    objective, batch = FORMS["windows"], make_batch()
    params = initial(objective)
    branch = dataclasses.replace(objective.student, representation="statistics")
    found = Distillation.represent(branch, params, batch)["embedding"]
    tokens = student_tokens(params, batch)
    expected = [tokens.mean(axis=1), tokens.std(axis=1), np.abs(np.diff(tokens, axis=1)).mean(axis=1)]
    np.testing.assert_allclose(found, np.concatenate(expected, axis=1), rtol=1e-4, atol=1e-5)
