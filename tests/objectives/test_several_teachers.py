"""Several teachers: the weighted mean of their losses, one run of the student's encoder, devices and micro-batches alike."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from accdistill_jax.config.convert import changed
from accdistill_jax.config.load import load_config
from accdistill_jax.config.schema import FIRST_AUGMENTATIONS
from accdistill_jax.objectives.base import PROGRESS, Branch
from accdistill_jax.objectives.given import given_branch
from accdistill_jax.objectives.several_teachers import TEACHERS, SeveralTeachers
from accdistill_jax.runtime.parallel import AXIS, Parallel
from accdistill_jax.stages.build_objective import build_objective, student_reads_ppg
from accdistill_jax.training.step import batch_keys, loss_gradient

SAMPLES, ROWS, WIDTHS = 256, 8, (5, 3)


def config_of(preset="distill:smoke-mean", **changes):
    plain = {f"student.augment.accel.{name}.probability": 0.0 for name in FIRST_AUGMENTATIONS}
    return changed(load_config(preset), plain | changes)


def two_tables(**changes) -> SeveralTeachers:
    config = config_of(**{"teacher.source": ("a.npz", "b.npz"), "teacher.source_weights": (3.0, 1.0)} | changes)
    tables = [given_branch(number, width) for number, width in enumerate(WIDTHS)]
    return build_objective(config, "student", samples=SAMPLES, tables=tables)


def batch_of(rows: int = ROWS) -> dict:
    rng = np.random.default_rng(0)
    batch = {f"given_{number}": rng.normal(size=(rows, width)) for number, width in enumerate(WIDTHS)}
    batch = {name: values.astype(np.float32) for name, values in batch.items()}
    batch |= {"accel": rng.integers(-999, 999, (rows, SAMPLES, 3)).astype(np.int16)}
    batch |= {"accel_scale": np.full((rows, 3), 1e-3, np.float32), "accel_offset": np.zeros((rows, 3), np.float32)}
    return batch | {"position": np.arange(rows, dtype=np.int32)}


def frozen_of() -> dict:
    arrays = [{"params": {}, "mean": np.full(w, 0.5, np.float32), "std": np.full(w, 2.0, np.float32)} for w in WIDTHS]
    return {TEACHERS: tuple(arrays), PROGRESS: np.float32(0)}


def test_the_loss_is_the_weighted_mean_and_each_teacher_has_heads():
    objective, batch = two_tables(**{"student.regression_weight": 0.5}), batch_of()
    params = jax.jit(objective.init)(jax.random.key(0), {name: value[:1] for name, value in batch.items()})
    heads = {"head", "teacher_head", "regression_head"}
    assert params.keys() == {"encoder", "source_1"} | heads and params["source_1"].keys() == heads
    keys = batch_keys(0, jnp.int32(0), jnp.asarray(batch["position"]))
    frozen = frozen_of()

    @jax.jit
    def losses(params, frozen, batch, keys):
        alone = []
        for number, member in enumerate(objective.members):
            own = params if number == 0 else params["source_1"] | {"encoder": params["encoder"]}
            arrays = frozen[TEACHERS][number] | {PROGRESS: frozen[PROGRESS]}
            alone.append(member.loss(own, arrays, batch, keys, None)[0])
        return objective.loss(params, frozen, batch, keys, None), alone

    (total, metrics), alone = losses(params, frozen, batch, keys)
    np.testing.assert_allclose(total, 0.75 * alone[0] + 0.25 * alone[1], rtol=1e-6)
    assert {"loss", "loss_0", "loss_1", "regression_1", "embedding_std"} <= metrics.keys()
    standard = jax.jit(lambda *given: objective.inputs(*given, training=False))(frozen, batch, keys)["1"]["teacher"]
    np.testing.assert_allclose(standard, (batch["given_1"] - 0.5) / 2.0, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("pieces", [1, 2])
def test_devices_and_micro_batches_change_nothing(pieces):
    objective, batch = two_tables(), batch_of(16)
    params = jax.jit(objective.init)(jax.random.key(0), {name: value[:1] for name, value in batch.items()})

    def gradient(params, frozen, batch, pieces):
        keys = batch_keys(0, jnp.int32(0), batch["position"])
        result, metrics = loss_gradient(objective, params, frozen, batch, keys, pieces=pieces)
        return jax.lax.pmean((result, metrics["loss"]), AXIS)

    results = []
    for devices, parts in ((1, 1), (4, pieces)):
        parallel = Parallel(devices=jax.devices()[:devices])
        mapped = parallel.map(lambda *given, parts=parts: (None, gradient(*given, parts)))
        placed = parallel.replicate(params), parallel.replicate(frozen_of()), parallel.place(batch)
        results.append(jax.device_get(mapped(*placed)[1]))
    for left, right in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(left, right, rtol=2e-4, atol=2e-6)


def test_each_teachers_learned_temperature_stays_in_its_bounds():
    objective = two_tables(**{"student.contrast.temperature_bounds": (0.01, 1.0)})
    params = objective.init(jax.random.key(0), batch_of(1))
    for scalars in (params["contrast"], params["source_1"]["contrast"]):
        scalars["log_temperature"] = jnp.float32(5.0)
    after = objective.constrained(params)
    assert after["contrast"]["log_temperature"] == after["source_1"]["contrast"]["log_temperature"] == 0.0
    assert jax.tree.structure(after) == jax.tree.structure(params)


def test_a_ppg_teacher_with_windows_stands_beside_a_table():
    config = config_of("distill:smoke", **{"teacher.source": ("ppg", "a.npz")})
    assert student_reads_ppg(config)
    encoder = build_objective(config, "teacher", samples=3840).branch.encoder
    ppg = Branch("ppg", encoder, config.inputs.ppg)
    objective = build_objective(config, "student", samples=3840, teacher=ppg, tables=[given_branch(0, 5)])
    first, second = objective.members
    assert first.windows == 60 and first.loss_terms.token_weight and objective.teacher_reading.reads_tokens
    assert second.windows == 1 and not second.loss_terms.token_weight and objective.weights == (0.5, 0.5)
    assert dataclasses.replace(second.student, head=None) == dataclasses.replace(first.student, head=None)
