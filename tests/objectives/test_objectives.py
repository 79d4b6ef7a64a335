import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from accdistill_jax.config.registry import AUGMENTATIONS
from accdistill_jax.config.schema import InputSettings
from accdistill_jax.inputs import streams
from accdistill_jax.inputs.augment import order as names
from accdistill_jax.inputs.prepare import prepare_inputs
from accdistill_jax.inputs.present import present, shifted
from accdistill_jax.inputs.registered import Augmentation
from accdistill_jax.inputs.streams import stream
from accdistill_jax.models.autoencoder import MaskedAutoencoder, dropped_patches, random_order
from accdistill_jax.models.heads import ProjectionHead
from accdistill_jax.models.transformer import TransformerEncoder
from accdistill_jax.objectives import losses
from accdistill_jax.objectives.base import Branch
from accdistill_jax.objectives.contrast import CrossModalContrast
from accdistill_jax.objectives.distillation import Distillation, DistillationLoss
from accdistill_jax.objectives.masked import MaskedAutoencoding
from accdistill_jax.objectives.teacher_reading import TEACHER
from accdistill_jax.runtime.parallel import Parallel
from accdistill_jax.training.optimizer import Optimizer
from accdistill_jax.training.optimizer_state import Replicated
from accdistill_jax.training.step import LoopSettings, batch_keys, initial_state, make_step, make_validation

BATCH, LENGTH = 8, 32
SETTINGS = LoopSettings(total_steps=4, validate_every=4, checkpoint_every=4, log_every=1, ema_decay=0.0, seed=3)
SPECS = {"cut_out": Augmentation(0.5, 0.25)}
HEAD = ProjectionHead(hidden=8, output=4)


def make_batch(seed=0):
    rng = np.random.default_rng(seed)
    batch = {"position": np.arange(BATCH, dtype=np.int32)}
    for modality, channels in (("ppg", 2), ("accel", 3)):
        batch[modality] = rng.integers(-32000, 32000, (BATCH, LENGTH, channels)).astype(np.int16)
        batch[f"{modality}_scale"] = rng.uniform(1e-5, 1e-4, (BATCH, channels)).astype(np.float32)
        batch[f"{modality}_offset"] = rng.normal(size=(BATCH, channels)).astype(np.float32)
    return batch


def encoder():
    """Tokens and their norm alone: the blocks have tests of their own and take long to compile."""
    return TransformerEncoder(patch=8, width=8, depth=0, heads=2, mlp=8)


def distilling(*, weight=0.7, specs=SPECS):
    return Distillation(
        Branch("accel", encoder(), InputSettings(bands="low+high", limit=4.0), HEAD, specs),
        Branch("ppg", encoder(), InputSettings(), HEAD, specs),
        DistillationLoss(CrossModalContrast(0.1, weight)),
    )


def reconstructing(specs=SPECS):
    model = MaskedAutoencoder(encoder(), patch=8, keep=2, decoder_width=8, decoder_depth=0, decoder_heads=2)
    return MaskedAutoencoding(Branch("ppg", model.encoder, InputSettings(), augmentations=specs), model), model


def make_frozen():
    params = jax.jit(encoder().init)(jax.random.key(9), jnp.zeros((1, LENGTH, 2)))["params"]
    rng = np.random.default_rng(1)
    mean, std = rng.normal(size=8), rng.uniform(0.5, 2, 8)
    return {"params": params, "mean": mean.astype(np.float32), "std": std.astype(np.float32)}


def keys_of(seed=3, step=0):
    return batch_keys(seed, jnp.int32(step), np.arange(BATCH, dtype=np.int32))


@pytest.fixture(scope="module")
def frozen():
    return jax.device_get(make_frozen())


@pytest.fixture(scope="module")
def student():
    return jax.device_get(jax.jit(distilling().init)(jax.random.key(0), make_batch()))


def test_distillation_is_both_directions_of_info_nce_on_standardised_embeddings(frozen, student):
    batch, objective = make_batch(), distilling(weight=0.7)
    value, metrics = jax.jit(lambda p: objective.evaluate(p, frozen, batch, keys_of(), None))(student)

    @jax.jit
    def projections(p):
        z = encoder().apply({"params": frozen["params"]}, prepare_inputs(batch, "ppg", InputSettings()))
        teacher = HEAD.apply({"params": p["teacher_head"]}, (z - frozen["mean"][None]) / frozen["std"][None])
        x = prepare_inputs(batch, "accel", InputSettings(bands="low+high", limit=4.0))
        return teacher, HEAD.apply({"params": p["head"]}, encoder().apply({"params": p["encoder"]}, x))

    t, s = (np.asarray(a, np.float64) for a in projections(student))
    cross_entropy = lambda logits: np.mean(np.log(np.exp(logits).sum(axis=1)) - np.diag(logits))
    forth, back = cross_entropy(t @ s.T / 0.1), cross_entropy(s @ t.T / 0.1)
    np.testing.assert_allclose(value, 0.7 * forth + 0.3 * back, rtol=1e-4)
    assert abs(forth - back) > 1e-3
    np.testing.assert_allclose([metrics["teacher_to_student"], metrics["student_to_teacher"]], [forth, back], rtol=1e-4)


def test_a_frozen_teacher_gets_no_gradient_and_the_student_does(frozen, student):
    loss = lambda p, f: distilling().loss(p, f, make_batch(), keys_of(), None)[0]
    gradient, of_teacher = jax.jit(jax.grad(loss, (0, 1)))(student, frozen)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(of_teacher))
    for part in ("encoder", "head", "teacher_head"):
        assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient[part])) > 1e-3, part


def test_training_augments_and_evaluation_does_not(frozen, student):
    objective, plain = distilling(), distilling(specs={})
    run = lambda f: float(jax.jit(lambda p: f(p, frozen, make_batch(), keys_of(), None)[0])(student))
    assert run(objective.evaluate) == run(plain.evaluate) == pytest.approx(run(plain.loss), rel=1e-5)
    assert run(objective.loss) != run(objective.evaluate)


def test_masked_autoencoding_is_the_error_on_the_dropped_patches():
    objective, model = reconstructing()
    batch = make_batch()
    params = jax.jit(objective.init)(jax.random.key(0), batch)

    @jax.jit
    def both(params):
        x = prepare_inputs(batch, "ppg", InputSettings())
        order = random_order(stream(keys_of(), streams.MASK), 4)
        prediction, _ = model.apply({"params": params}, x, order)
        return (
            objective.evaluate(params, {}, batch, keys_of(), None),
            prediction,
            dropped_patches(x, order, patch=8, keep=2),
        )

    (value, metrics), prediction, target = both(params)
    np.testing.assert_allclose(value, np.mean((np.asarray(prediction) - np.asarray(target)) ** 2), rtol=1e-5)
    assert set(metrics) == {"loss", "embedding_std", "effective_rank"}


def test_streams_of_randomness_are_distinct():
    keys = np.stack([jax.random.key_data(stream(keys_of(step=step), n)) for step in (0, 1) for n in range(4)])
    assert len(np.unique(keys.reshape(-1, keys.shape[-1]), axis=0)) == 2 * 4 * BATCH


SGD = Optimizer(optax.sgd(1.0), optax.constant_schedule(1.0))  # parameters move by the gradient itself


def steps_of(objective, parallel, params, fixed, *, micro_batches=1):
    """Parameters and metrics after one training step, and validation metrics before it."""
    batch, layout = parallel.place(make_batch()), Replicated(SGD)
    settings = SETTINGS._replace(micro_batches=micro_batches)
    step = parallel.map(make_step(objective, layout, settings))
    state = parallel.replicate(initial_state(params, layout, settings))
    state, metrics = step(state, parallel.replicate(fixed), batch)
    validate = parallel.map(make_validation(objective, 3))
    _, validation = validate(parallel.replicate(params), parallel.replicate(fixed), batch)
    return parallel.fetch((state.params, metrics, validation))


@pytest.fixture(scope="module", params=["distillation", "autoencoding"])
def reference(request, frozen):
    """An objective with its frozen part and parameters, and its step on one device in one piece."""
    objective = distilling() if request.param == "distillation" else reconstructing()[0]
    fixed = frozen if request.param == "distillation" else {}
    params = jax.device_get(jax.jit(objective.init)(jax.random.key(0), make_batch()))
    one = steps_of(objective, Parallel(devices=jax.devices()[:1]), params, fixed)
    moved = jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max(), one[0], params))
    assert max(moved) > 1e-2 and np.isfinite(one[2]["effective_rank"])
    return objective, fixed, params, one


@pytest.mark.parametrize("mapping", ["shard_map", "pmap"])
def test_a_training_step_over_four_devices_is_that_of_one(mapping, reference):
    objective, fixed, params, one = reference
    four = steps_of(objective, Parallel(mapping), params, fixed)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), one, four)


@pytest.mark.parametrize("devices,micro_batches", [(1, 4), (2, 2)])
def test_a_step_in_micro_batches_is_that_of_the_whole_batch(devices, micro_batches, reference):
    """The contrastive loss still sees all rows: split losses would differ by far more than rounding."""
    objective, fixed, params, one = reference
    parallel = Parallel(devices=jax.devices()[:devices])
    pieces = steps_of(objective, parallel, params, fixed, micro_batches=micro_batches)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6), one, pieces)


@pytest.mark.parametrize("layout", [("shard_map", 2), ("shard_map", 4), ("pmap", 4)], ids=str)
def test_augmented_inputs_do_not_depend_on_the_devices_to_the_last_bit(layout):
    """All augmentations at once, half of the time each, on segments of full length."""
    specs = {name: AUGMENTATIONS.entry(name).options(probability=0.5, strength=0.1) for name in names()}
    batch, rng = {"position": np.arange(BATCH, dtype=np.int32)}, np.random.default_rng(0)
    for modality, channels in (("ppg", 2), ("accel", 3)):
        batch[modality] = rng.integers(-20000, 20000, (BATCH, 3840, channels)).astype(np.int16)
        batch[f"{modality}_scale"] = rng.uniform(1e-5, 1e-4, (BATCH, channels)).astype(np.float32)
        batch[f"{modality}_offset"] = rng.normal(size=(BATCH, channels)).astype(np.float32)

    def inputs_of(parallel):
        def rows(_, batch):
            keys = batch_keys(3, jnp.int32(2), batch["position"])
            accel = present(batch, keys, "accel", InputSettings(bands="low+high", limit=4.0), specs, training=True)
            return jnp.concatenate([accel, present(batch, keys, "ppg", InputSettings(), specs, training=True)], axis=-1)

        return parallel.gather(parallel.map_rows(rows)(parallel.replicate({}), parallel.place(batch)))

    mapping, devices = layout
    one = inputs_of(Parallel(devices=jax.devices()[:1]))
    several = inputs_of(Parallel(mapping, devices=jax.devices()[:devices]))
    assert one.shape == (BATCH, 3840, 8) and one.tobytes() == several.tobytes()


@pytest.mark.slow
def test_micro_batches_take_less_memory():
    """Four pieces keep less than half of what one keeps for the backward pass of a deep encoder."""
    deep = TransformerEncoder(patch=8, width=32, depth=4, heads=2, mlp=128)
    model = MaskedAutoencoder(deep, patch=8, keep=4, decoder_width=8, decoder_depth=0, decoder_heads=2)
    objective = MaskedAutoencoding(Branch("ppg", deep, InputSettings()), model)
    rows = 64
    batch = {name: np.repeat(value, rows // BATCH, axis=0) for name, value in make_batch().items()}
    params = jax.eval_shape(objective.init, jax.random.key(0), batch)
    parallel, layout = Parallel(devices=jax.devices()[:1]), Replicated(SGD)
    state = jax.eval_shape(lambda p: initial_state(p, layout, SETTINGS), params)

    def bytes_of(pieces):
        step = parallel.map(make_step(objective, layout, SETTINGS._replace(micro_batches=pieces)))
        return step.lower(state, {}, batch).compile().memory_analysis().temp_size_in_bytes

    assert bytes_of(4) < 0.5 * bytes_of(1)


def test_objectives_have_pure_losses():
    """The same arguments give the same bits; another step's keys give another loss."""
    objective, _ = reconstructing()
    batch = make_batch()
    params = jax.jit(objective.init)(jax.random.key(0), batch)
    loss = jax.jit(lambda keys: objective.loss(params, {}, batch, keys, None)[0])
    assert loss(keys_of()) == loss(keys_of())
    assert loss(keys_of()) != loss(keys_of(step=1))
    assert losses.masked_reconstruction(jnp.ones((1, 2, 3)), jnp.zeros((1, 2, 3))).tolist() == [1]


def dropping(fraction=0.5, *, relative=False):
    student = TransformerEncoder(patch=8, width=8, depth=int(relative), heads=2, mlp=8, positions="sinusoidal+relative")
    return Distillation(
        Branch("accel", student, InputSettings(), HEAD),
        Branch("ppg", encoder(), InputSettings(), HEAD),
        DistillationLoss(CrossModalContrast(0.1, 0.5)),
        drop_fraction=fraction,
    )


def test_dropped_tokens_have_no_gradient_and_kept_ones_do(frozen):
    objective, batch = dropping(relative=True), make_batch()
    params = jax.jit(objective.init)(jax.random.key(0), batch)

    @jax.jit
    def gradient_by_token(params):
        views = objective.inputs(frozen, batch, keys_of(), training=True)

        def loss(accel):
            return objective.reduce(objective.rows(params, views | {"accel": accel}), None, training=True)[0]

        return views["kept"], jnp.abs(jax.grad(loss)(views["accel"])).reshape(BATCH, 4, -1).max(axis=2)

    kept, gradient = map(np.asarray, gradient_by_token(params))
    assert kept.shape == (BATCH, 2) and kept.dtype == np.int32
    seen = np.zeros((BATCH, 4), bool)
    np.put_along_axis(seen, kept, True, axis=1)
    assert (seen.sum(axis=1) == 2).all() and len({tuple(row) for row in seen.tolist()}) > 1
    assert (gradient[~seen] == 0).all() and (gradient[seen] > 0).all()


def test_tokens_are_dropped_in_training_only_and_anew_every_step(frozen):
    objective, whole = dropping(), dropping(0.0)
    batch = make_batch()
    params = jax.jit(objective.init)(jax.random.key(0), batch)
    evaluate = lambda o: float(jax.jit(lambda p: o.evaluate(p, frozen, batch, keys_of(), None)[0])(params))
    kept = lambda step: np.asarray(objective.inputs(frozen, batch, keys_of(step=step), training=True)["kept"])
    assert evaluate(objective) == evaluate(whole)
    assert "kept" not in whole.inputs(frozen, batch, keys_of(), training=True)
    assert (kept(0) == kept(0)).all() and (kept(0) != kept(1)).any()


@pytest.mark.slow
@pytest.mark.parametrize("devices,micro_batches", [(4, 1), (1, 4), (2, 2)])
def test_the_same_tokens_are_dropped_for_any_split_of_the_batch(devices, micro_batches, frozen, dropped_once):
    objective, params, one = dropped_once
    several = steps_of(
        objective, Parallel(devices=jax.devices()[:devices]), params, frozen, micro_batches=micro_batches
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), one, several)


@pytest.fixture(scope="module")
def dropped_once(frozen):
    """An objective that drops tokens, its parameters, and its step on one device in one piece."""
    objective = dropping()
    params = jax.device_get(jax.jit(objective.init)(jax.random.key(0), make_batch()))
    one = steps_of(objective, Parallel(devices=jax.devices()[:1]), params, frozen)
    plain = steps_of(dropping(0.0), Parallel(devices=jax.devices()[:1]), params, frozen)
    assert abs(one[1]["loss"] - plain[1]["loss"]) > 1e-3
    return objective, params, one


def test_a_shift_moves_both_sensors_in_training_only(frozen, student):
    plain = distilling(specs={})
    moved = dataclasses.replace(
        plain, student=dataclasses.replace(plain.student, shift=3), teacher=dataclasses.replace(plain.teacher, shift=3)
    )
    batch, keys = make_batch(), keys_of()
    inputs = lambda objective, batch, training: jax.jit(
        lambda: objective.inputs(frozen, batch, keys, training=training)
    )()
    for name, value in inputs(moved, batch, False).items():
        np.testing.assert_array_equal(value, inputs(plain, batch, False)[name])
    by_hand = batch | {name: shifted(batch, keys, name, 3)[name] for name in ("ppg", "accel")}
    for name, value in inputs(moved, batch, True).items():
        np.testing.assert_allclose(value, inputs(plain, by_hand, True)[name], rtol=1e-5, atol=1e-5)
        assert np.abs(np.asarray(value) - np.asarray(inputs(plain, batch, True)[name])).max() > 0.1


def test_a_batch_with_the_teachers_embedding_needs_neither_teacher_nor_ppg(frozen, student):
    objective, batch = distilling(specs={}), make_batch()
    embedding = jax.jit(lambda: objective.inputs(frozen, batch, keys_of(), training=True)["teacher"])()
    lean = {name: value for name, value in batch.items() if not name.startswith("ppg")} | {
        TEACHER: np.asarray(embedding)
    }
    with_teacher = jax.jit(lambda p: objective.loss(p, frozen, batch, keys_of(), None)[0])(student)
    without = jax.jit(lambda p: objective.loss(p, {}, lean, keys_of(), None)[0])(student)
    np.testing.assert_allclose(without, with_teacher, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, jax.jit(objective.init)(jax.random.key(0), lean), student)
