"""Contrastive, joint, supervised and regressing objectives: parity with numpy, gradients, devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from accdistill_jax.config.schema import InputSettings
from accdistill_jax.inputs.prepare import prepare_inputs
from accdistill_jax.inputs.registered import Augmentation
from accdistill_jax.models.heads import LinearHead, ProjectionHead
from accdistill_jax.models.transformer import TransformerEncoder
from accdistill_jax.objectives import losses
from accdistill_jax.objectives.base import SECOND, TARGET, Branch, Labelled
from accdistill_jax.objectives.contrast import CrossModalContrast
from accdistill_jax.objectives.contrastive import Contrastive
from accdistill_jax.objectives.distillation import Distillation, DistillationLoss
from accdistill_jax.objectives.joint import JointTraining
from accdistill_jax.objectives.supervised import Supervised
from accdistill_jax.runtime.parallel import Parallel
from accdistill_jax.training.optimizer import Optimizer
from accdistill_jax.training.optimizer_state import Replicated
from accdistill_jax.training.step import (
    LoopSettings,
    batch_keys,
    initial_state,
    kept_params,
    make_step,
    make_validation,
)

BATCH, LENGTH, WIDTH = 8, 32, 8
SETTINGS = LoopSettings(total_steps=4, validate_every=4, checkpoint_every=4, log_every=1, ema_decay=0.0, seed=3)
# a rate at which the second step does not magnify the rounding of the first (KoLeo divides by distances of neighbours)
SGD = Optimizer(optax.sgd(0.1), optax.constant_schedule(0.1))
HEAD = ProjectionHead(hidden=8, output=4)
SPECS = {"gaussian_noise": Augmentation(1.0, 0.3)}


def make_batch(seed=0):
    rng = np.random.default_rng(seed)
    batch = {"position": np.arange(BATCH, dtype=np.int32), "label": rng.normal(70, 9, BATCH).astype(np.float32)}
    for name, channels in (("ppg", 2), ("accel", 3), (SECOND + "ppg", 2)):
        batch[name] = rng.integers(-32000, 32000, (BATCH, LENGTH, channels)).astype(np.int16)
        batch[f"{name}_scale"] = rng.uniform(1e-5, 1e-4, (BATCH, channels)).astype(np.float32)
        batch[f"{name}_offset"] = rng.normal(size=(BATCH, channels)).astype(np.float32)
    return batch


def encoder():
    return TransformerEncoder(patch=8, width=WIDTH, depth=0, heads=2, mlp=8)


def bare(modality):
    """A branch without augmentations."""
    return Branch(modality, encoder(), InputSettings(), HEAD)


def keys_of(step=0):
    return batch_keys(3, jnp.int32(step), np.arange(BATCH, dtype=np.int32))


def contrasting(*, positives="participant", momentum=0.9, specs=None, koleo_weight=0.1):
    branch = Branch("ppg", encoder(), InputSettings(), HEAD, specs or {})
    return Contrastive(branch, positives, 0.1, koleo_weight, momentum)


def jointly():
    return JointTraining(bare("accel"), bare("ppg"), CrossModalContrast(0.1, 0.7))


def regressing(*, contrast=0.0, weight=1.0, kind="mse"):
    terms = DistillationLoss(CrossModalContrast(0.1, 0.5), contrast, weight, kind)
    return Distillation(bare("accel"), bare("ppg"), terms)


def labelling():
    branch = Branch("accel", encoder(), InputSettings(), LinearHead(1))
    return Supervised(branch, Labelled("hr_bpm", 1.0, 0))


def init(objective, seed=0):
    return jax.device_get(jax.jit(objective.init)(jax.random.key(seed), make_batch()))


@pytest.fixture(scope="module")
def teacher():
    params = jax.jit(encoder().init)(jax.random.key(9), jnp.zeros((1, LENGTH, 2)))["params"]
    rng = np.random.default_rng(1)
    frozen = {"params": params, "mean": rng.normal(size=WIDTH), "std": rng.uniform(0.5, 2, WIDTH)}
    return jax.tree.map(lambda a: np.asarray(a, np.float32), jax.device_get(frozen))


STATISTICS = {"label_mean": np.float32(70.0), "label_std": np.float32(8.0)}


def cross_entropy(query, key, temperature=0.1):
    logits = np.asarray(query, np.float64) @ np.asarray(key, np.float64).T / temperature
    return np.mean(np.log(np.exp(logits).sum(axis=1)) - np.diag(logits))


def projected(params, x):
    return HEAD.apply({"params": params["head"]}, encoder().apply({"params": params["encoder"]}, x))


@pytest.mark.parametrize("positives,second", [("participant", SECOND), ("segment", "")])
def test_contrast_is_info_nce_against_the_average_of_another_view(positives, second):
    objective, batch = contrasting(positives=positives), make_batch()
    params, average = init(objective), init(objective, seed=1)
    loss = jax.jit(lambda p, t: objective.loss(p, {TARGET: t}, batch, keys_of(), None))
    value, metrics = loss(params, average)

    @jax.jit
    def expected(params, average):
        other = {name.removeprefix(second): v for name, v in batch.items() if name.startswith(second + "ppg")}
        return projected(params, prepare_inputs(batch, "ppg", InputSettings())), projected(
            average, prepare_inputs(other, "ppg", InputSettings())
        )

    query, key = map(np.asarray, expected(params, average))
    np.testing.assert_allclose(metrics["info_nce"], cross_entropy(query, key), rtol=1e-4)
    distance = np.linalg.norm(query[:, None].astype(np.float64) - query[None], axis=-1) + 9 * np.eye(BATCH)
    np.testing.assert_allclose(metrics["koleo"], -np.mean(np.log(distance.min(axis=1))), rtol=1e-3)
    np.testing.assert_allclose(value, metrics["info_nce"] + 0.1 * metrics["koleo"], rtol=1e-5)


def test_the_momentum_branch_has_no_gradient_and_without_it_both_views_have():
    batch = make_batch()
    params = init(contrasting())
    loss = lambda p, t: contrasting().loss(p, {TARGET: t}, batch, keys_of(), None)[0]
    of_params, of_target = jax.jit(jax.grad(loss, (0, 1)))(params, params)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(of_target))
    plain = jax.jit(jax.grad(lambda p: contrasting(momentum=0.0).loss(p, {}, batch, keys_of(), None)[0]))(params)
    size = lambda tree: max(np.abs(leaf).max() for leaf in jax.tree.leaves(tree))
    assert size(of_params) > 1e-3
    assert size(jax.tree.map(lambda a, b: a - b, plain, of_params)) > 1e-3


def test_two_views_of_a_segment_are_augmented_differently_also_in_validation():
    objective, batch = contrasting(positives="segment", specs=SPECS), make_batch()
    views = objective.inputs({TARGET: init(objective)}, batch, keys_of(), training=False)
    bare = prepare_inputs(batch, "ppg", InputSettings())
    assert np.abs(views["first"] - bare).max() > 0.1
    both = contrasting(positives="segment", specs=SPECS, momentum=0.0).inputs({}, batch, keys_of(), training=True)
    assert np.abs(both["first"] - both["second"]).max() > 0.1


def test_koleo_over_devices_sees_all_vectors():
    z = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    one = float(losses.koleo(z))
    parallel = Parallel()
    step = parallel.map(lambda s, f, b: (s, jax.lax.pmean(losses.koleo(b["z"], axis_name="data"), "data")))
    _, four = step({}, {}, parallel.place({"z": z}))
    np.testing.assert_allclose(four, one, rtol=1e-5)


def steps_of(objective, parallel, params, fixed, *, micro_batches=1):
    settings, layout = SETTINGS._replace(micro_batches=micro_batches), Replicated(SGD)
    step = parallel.map(make_step(objective, layout, settings))
    state = parallel.replicate(initial_state(params, layout, settings, momentum=objective.momentum))
    batch = parallel.place(make_batch())
    for _ in range(2):
        state, metrics = step(state, parallel.replicate(fixed), batch)
    _, validation = parallel.map(make_validation(objective, 3))(
        parallel.replicate(params), parallel.replicate(fixed), batch
    )
    return parallel.fetch((state.params, state.ema, metrics, validation))


CASES = {
    "contrastive": (contrasting(specs=SPECS), {}),
    "joint": (jointly(), {}),
    "supervised": (labelling(), STATISTICS),
    "regression": (regressing(contrast=0.5, weight=2.0, kind="cosine"), None),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_steps_over_devices_and_in_pieces_are_those_of_one_device(name, teacher):
    objective, fixed = CASES[name]
    fixed = teacher if fixed is None else fixed
    params = init(objective)
    one = steps_of(objective, Parallel(devices=jax.devices()[:1]), params, fixed)
    assert np.isfinite(one[3]["effective_rank"]) and one[2]["gradient_norm"] > 1e-3
    for parallel, pieces in ((Parallel(), 1), (Parallel("pmap"), 1), (Parallel(devices=jax.devices()[:2]), 2)):
        several = steps_of(objective, parallel, params, fixed, micro_batches=pieces)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5), one, several)


def test_the_momentum_average_is_kept_as_it_should_and_does_not_leave_the_stage():
    objective = contrasting()
    params = init(objective)
    layout = Replicated(SGD)
    parallel = Parallel(devices=jax.devices()[:1])
    step = parallel.map(make_step(objective, layout, SETTINGS))
    state = parallel.replicate(initial_state(params, layout, SETTINGS, momentum=objective.momentum))
    after = parallel.fetch(step(state, {}, parallel.place(make_batch()))[0])
    jax.tree.map(
        lambda e, old, new: np.testing.assert_allclose(e, 0.9 * old + 0.1 * new, atol=1e-6),
        after.ema,
        params,
        after.params,
    )
    assert kept_params(after, SETTINGS) is after.params
    assert kept_params(after, SETTINGS._replace(ema_decay=0.9)) is after.ema


def test_joint_training_is_both_directions_and_trains_both_encoders():
    objective, batch = jointly(), make_batch()
    params = init(objective)

    @jax.jit
    def both(p):
        accel = projected(p, prepare_inputs(batch, "accel", InputSettings()))
        z = encoder().apply({"params": p["teacher"]}, prepare_inputs(batch, "ppg", InputSettings()))
        return accel, HEAD.apply({"params": p["teacher_head"]}, z)

    s, t = both(params)
    (value, metrics), gradient = jax.jit(
        jax.value_and_grad(lambda p: objective.loss(p, {}, batch, keys_of(), None), has_aux=True)
    )(params)
    np.testing.assert_allclose(value, 0.7 * cross_entropy(t, s) + 0.3 * cross_entropy(s, t), rtol=1e-4)
    assert {"ppg_embedding_std", "embedding_std"} <= set(metrics)
    for part in ("encoder", "head", "teacher", "teacher_head"):
        assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient[part])) > 1e-3, part


@pytest.mark.parametrize("kind", ["mse", "cosine"])
def test_regression_is_the_distance_to_the_teachers_standardised_embedding(kind, teacher):
    objective, batch = regressing(kind=kind), make_batch()
    params = init(objective)
    assert set(params) == {"encoder", "regression_head"}

    @jax.jit
    def both(p):
        z = encoder().apply({"params": p["encoder"]}, prepare_inputs(batch, "accel", InputSettings()))
        t = encoder().apply({"params": teacher["params"]}, prepare_inputs(batch, "ppg", InputSettings()))
        return LinearHead(WIDTH).apply({"params": p["regression_head"]}, z), (t - teacher["mean"][None]) / teacher[
            "std"
        ][None]

    p, t = (np.asarray(a, np.float64) for a in both(params))
    cosine = (p * t).sum(axis=1) / np.linalg.norm(p, axis=1) / np.linalg.norm(t, axis=1)
    expected = np.mean((p - t) ** 2) if kind == "mse" else np.mean(1 - cosine)
    value, metrics = jax.jit(lambda p: objective.loss(p, teacher, batch, keys_of(), None))(params)
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    assert metrics["regression"] == value and "temperature" not in metrics


def test_contrast_and_regression_add_up_by_their_weights(teacher):
    batch, mixed = make_batch(), regressing(contrast=0.5, weight=2.0)
    params = init(mixed)
    value, m = jax.jit(lambda p: mixed.loss(p, teacher, batch, keys_of(), None))(params)
    contrast = 0.5 * (m["teacher_to_student"] + m["student_to_teacher"])
    np.testing.assert_allclose(value, 0.5 * contrast + 2.0 * m["regression"], rtol=1e-5)


def test_supervision_is_huber_on_the_standardised_label_and_tells_its_error_in_the_labels_unit():
    objective, batch = labelling(), make_batch()
    params = init(objective)

    @jax.jit
    def predicted(p):
        z = encoder().apply({"params": p["encoder"]}, prepare_inputs(batch, "accel", InputSettings()))
        return LinearHead(1).apply({"params": p["label_head"]}, z)[:, 0]

    standard = np.asarray(predicted(params), np.float64)
    error = standard - (batch["label"] - 70.0) / 8.0
    size = np.abs(error)
    value, metrics = jax.jit(lambda p: objective.loss(p, STATISTICS, batch, keys_of(), None))(params)
    np.testing.assert_allclose(value, np.mean(np.where(size <= 1, error**2 / 2, size - 0.5)), rtol=1e-4)
    np.testing.assert_allclose(
        metrics["mean_absolute_error"], np.mean(np.abs(70 + 8 * standard - batch["label"])), rtol=1e-4
    )
    assert (size > 1).any() and (size < 1).any()


def test_a_step_contrasts_with_the_average_and_not_with_the_parameters_themselves():
    objective, layout = contrasting(), Replicated(SGD)
    parallel = Parallel(devices=jax.devices()[:1])
    step = parallel.map(make_step(objective, layout, SETTINGS))
    batch = parallel.place(make_batch())
    first, _ = step(parallel.replicate(initial_state(init(objective), layout, SETTINGS, momentum=0.9)), {}, batch)
    first = parallel.fetch(first)
    _, metrics = step(parallel.replicate(first), {}, batch)
    loss = jax.jit(lambda target: objective.loss(first.params, {TARGET: target}, make_batch(), keys_of(1), None)[0])
    np.testing.assert_allclose(parallel.fetch(metrics)["loss"], loss(first.ema), rtol=1e-5)
    assert abs(loss(first.ema) - loss(first.params)) > 1e-3
