"""The training loop: its order of work, its results to the bit, checkpoints, validation and signals."""

import json
import logging
import os
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from accdistill_jax.errors import UserError
from accdistill_jax.runtime.interrupt import Interrupted
from accdistill_jax.runtime.parallel import Parallel
from accdistill_jax.storage.checkpoint import Checkpointer
from accdistill_jax.training.optimizer import Optimizer
from accdistill_jax.training.optimizer_state import Replicated
from accdistill_jax.training.step import batch_keys, initial_state, kept_params
from tests.training.linear_stage import (
    BATCH,
    OBJECTIVE,
    SETTINGS,
    TEACHER,
    LinearStudent,
    Recording,
    batch_at,
    batches_then_signal,
    first_params,
    metrics_of,
    of_steps_alone,
    run,
    same_bits,
    steps_saved,
)


@pytest.mark.parametrize("mapping", ["shard_map", "pmap"])
def test_nothing_is_compiled_after_the_first_step_but_the_first_validation(tmp_path, mapping, caplog):
    counts = []

    def counting():
        for step in range(6):
            counts.append(sum("Compiling" in record.getMessage() for record in caplog.records))
            yield batch_at(step)

    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        run(tmp_path, parallel=Parallel(mapping), batches=counting())
        counts.append(sum("Compiling" in record.getMessage() for record in caplog.records))
    # each batch but the first is taken while the step before it runs; validation is at steps 2, 4 and 6
    _, *during, end = counts
    assert during[0] > 0
    assert [count - during[0] for count in (*during, end)] == [0, 0, 1, 1, 1, 1]


def test_a_step_that_is_traced_again_is_an_error(tmp_path):
    def changing():
        for step in range(6):
            batch = batch_at(step)
            yield batch if step < 3 else batch | {"accel": batch["accel"].astype(np.float16)}

    with pytest.raises(AssertionError, match="'step' is traced > 1 times"):
        run(tmp_path, batches=changing(), validation=())


def test_the_loop_moves_nothing_that_is_not_said_to_be_moved(tmp_path):
    settings, schedule = SETTINGS._replace(ema_decay=0.9), optax.cosine_decay_schedule(1e-2, 6)
    run(tmp_path, settings=settings, schedule=schedule, within=jax.transfer_guard("disallow"))
    assert [r["step"] for r in metrics_of(tmp_path) if r["kind"] == "train"] == [1, 2, 3, 4, 5, 6]


def test_the_next_batch_is_placed_before_the_metrics_of_the_step_before_are_fetched(tmp_path):
    parallel = Recording()
    run(tmp_path, settings=of_steps_alone(4), parallel=parallel, validation=())
    loop = parallel.events[: parallel.events.index("step") + 10]
    assert loop == ["place", "step", "place", "step", "place", "fetch", "step", "place", "fetch", "step", "fetch"]


def test_nothing_but_the_next_dispatch_waits_for_a_running_step(tmp_path):
    """Each step runs until the next one is dispatched: a loop that waited for it before would wait in vain."""
    begun, waited = [threading.Event() for _ in range(4)], []

    class Dispatched(Recording):
        def dispatching(self):
            begun[len(self.donated)].set()

    def wait(step):
        waited.append(step + 1 == len(begun) or begun[step + 1].wait(timeout=60.0))
        return np.float32(0.0)

    class Slow(LinearStudent):
        def inputs(self, frozen, batch, keys, *, training):
            late = jax.pure_callback(wait, jax.ShapeDtypeStruct((), jnp.float32), batch["number"][0])
            return super().inputs(frozen, {**batch, "accel": batch["accel"] + late}, keys, training=training)

    run(
        tmp_path,
        settings=of_steps_alone(4),
        objective=Slow(),
        validation=(),
        parallel=Dispatched(),
        batches=(batch_at(step) | {"number": np.full(BATCH, step, np.int32)} for step in range(4)),
    )
    assert waited and all(waited)


@pytest.mark.parametrize("mapping", ["shard_map", "pmap"])
def test_the_state_is_there_once(tmp_path, mapping):
    parallel, alive = Recording(mapping), []

    def measuring():
        for step in range(8):
            alive.append(sum(array.nbytes for array in jax.live_arrays()))
            yield batch_at(step)

    settings = of_steps_alone(8)._replace(ema_decay=0.9)
    run(tmp_path, settings=settings, parallel=parallel, validation=(), batches=measuring())
    assert parallel.donated == [{True}] * 8
    assert len(set(alive[3:])) == 1


@pytest.mark.parametrize("mapping", ["shard_map", "pmap"])
def test_stopped_and_continued_training_equals_the_uninterrupted_bit_for_bit(tmp_path, mapping):
    settings = SETTINGS._replace(ema_decay=0.9)
    whole = run(tmp_path / "whole", settings=settings, parallel=Parallel(mapping))
    with pytest.raises(Interrupted, match="SIGTERM; step 3 is saved"):
        batches = batches_then_signal(signal.SIGTERM, at=3)
        run(tmp_path / "parts", settings=settings, parallel=Parallel(mapping), batches=batches)
    assert steps_saved(tmp_path / "parts")[-1] == 3
    same_bits(whole, run(tmp_path / "parts", settings=settings, parallel=Parallel(mapping)))
    records = metrics_of(tmp_path / "whole")
    assert records == metrics_of(tmp_path / "parts")
    assert [r["step"] for r in records if r["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert [r["step"] for r in records if r["kind"] == "validation"] == [2, 4, 6]


def test_a_run_killed_after_its_checkpoint_repeats_the_lost_steps_exactly(tmp_path):
    whole = run(tmp_path / "whole")

    def dying():
        for step in range(5):
            yield batch_at(step)
        raise MemoryError("as good as kill -9")

    with pytest.raises(MemoryError):
        run(tmp_path / "parts", batches=dying())
    assert max(steps_saved(tmp_path / "parts")) < 5 <= metrics_of(tmp_path / "parts")[-1]["step"] + 1
    same_bits(whole, run(tmp_path / "parts"))
    assert metrics_of(tmp_path / "whole") == metrics_of(tmp_path / "parts")


def test_devices_and_mapping_do_not_change_the_training(tmp_path):
    one = run(tmp_path / "one", parallel=Parallel(devices=jax.devices()[:1]))
    assert np.abs(one.params["w"] - first_params()["w"]).max() > 1e-2
    fours = {mapping: run(tmp_path / mapping, parallel=Parallel(mapping)) for mapping in ("shard_map", "pmap")}
    for mapping, four in fours.items():
        np.testing.assert_allclose(four.params["w"], one.params["w"], rtol=1e-5, atol=1e-5)
        for ours, theirs in zip(metrics_of(tmp_path / mapping), metrics_of(tmp_path / "one"), strict=True):
            assert ours.pop("kind") == theirs.pop("kind")
            assert ours == pytest.approx(theirs, rel=1e-4)
    np.testing.assert_allclose(fours["pmap"].params["w"], fours["shard_map"].params["w"], rtol=1e-6, atol=1e-6)
    for ours, theirs in zip(metrics_of(tmp_path / "pmap"), metrics_of(tmp_path / "shard_map"), strict=True):
        assert ours.pop("kind") == theirs.pop("kind")
        assert ours == pytest.approx(theirs, rel=1e-6)


def test_one_step_is_the_optimisers_step_on_the_mean_gradient(tmp_path):
    settings = SETTINGS._replace(total_steps=1)
    state = run(tmp_path, settings=settings)
    batch, keys = batch_at(0), batch_keys(4, jnp.int32(0), np.arange(BATCH, dtype=np.int32))
    value, gradient = jax.jit(jax.value_and_grad(lambda p: OBJECTIVE.loss(p, TEACHER, batch, keys, None)[0]))(
        first_params()
    )
    optimizer = optax.adamw(1e-2)
    updates, _ = optimizer.update(gradient, optimizer.init(first_params()), first_params())
    np.testing.assert_allclose(state.params["w"], first_params()["w"] + updates["w"], rtol=1e-5, atol=1e-6)
    record = metrics_of(tmp_path)[0]
    assert record["loss"] == pytest.approx(float(value), rel=1e-5)
    assert record["gradient_norm"] == pytest.approx(float(np.linalg.norm(gradient["w"])), rel=1e-4)
    assert record["learning_rate"] == pytest.approx(1e-2)


@pytest.mark.parametrize("at", [1, 5])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path, at):
    def broken():
        for step in range(6):
            batch = batch_at(step)
            if step == at - 1:
                batch["accel"][3, 2] = np.nan
            yield batch

    settings = SETTINGS._replace(checkpoint_every=1)
    last = "no checkpoint was written yet" if at == 1 else f"checkpoint of step {at - 1} is kept"
    with pytest.raises(UserError, match=rf"stopped at step {at}: .*loss.* not finite .*{last}"):
        run(tmp_path, settings=settings, batches=broken())
    assert steps_saved(tmp_path) == list(range(1, at))
    assert all(np.isfinite(list(r.values())[2:]).all() for r in (metrics_of(tmp_path) if at > 1 else []))
    assert run(tmp_path, settings=settings).step == 6  # and the mended data train on from there


def test_the_teacher_stays_as_it_was_and_out_of_the_checkpoint(tmp_path):
    before = TEACHER["w"].copy()
    run(tmp_path)
    np.testing.assert_array_equal(TEACHER["w"], before)
    template = initial_state(first_params(), Replicated(Optimizer(optax.adamw(1e-2), None)), SETTINGS)
    with Checkpointer(tmp_path / "checkpoints") as checkpointer:
        restored, meta = checkpointer.restore(6, template)
    shapes = {np.shape(leaf) for leaf in jax.tree.leaves(restored)}
    assert shapes == {(), (6, 4)}  # the teacher's (5, 4) is nowhere
    assert meta["teacher"] == "abc"


def test_average_of_parameters_follows_its_recursion(tmp_path):
    settings = SETTINGS._replace(ema_decay=0.5, checkpoint_every=1)
    final = run(tmp_path, settings=settings)
    template = initial_state(first_params(), Replicated(Optimizer(optax.adamw(1e-2), None)), settings)
    average = first_params()["w"]
    with Checkpointer(tmp_path / "checkpoints", keep_last=10) as checkpointer:
        for step in range(1, 7):
            state = checkpointer.restore(step, template).state
            decay = min(0.5, step / (9 + step))  # short at first
            average = decay * average + (1 - decay) * state.params["w"]
            np.testing.assert_allclose(state.ema["w"], average, rtol=1e-5)
    np.testing.assert_array_equal(kept_params(final, settings)["w"], final.ema["w"])
    assert np.abs(final.ema["w"] - final.params["w"]).max() > 1e-4
    plain = run(tmp_path / "plain")
    np.testing.assert_array_equal(kept_params(plain, SETTINGS)["w"], plain.params["w"])
    same_bits(plain.params, final.params)  # averaging does not touch training


def test_checkpoints_carry_the_validation_of_their_own_step_and_the_best_is_kept(tmp_path):
    # validation at steps 2, 4 and 6; a checkpoint at 3 as well, which was not validated and must not be "best"
    settings = SETTINGS._replace(checkpoint_every=3)
    run(tmp_path, settings=settings)
    measured = {r["step"]: r["loss"] for r in metrics_of(tmp_path) if r["kind"] == "validation"}
    with Checkpointer(tmp_path / "checkpoints", keep_last=10) as checkpointer:
        saved = {
            s: json.loads((tmp_path / "checkpoints" / f"{s}.json").read_text())["metric"] for s in steps_saved(tmp_path)
        }
        assert saved == {2: measured[2], 3: None, 4: measured[4], 6: measured[6]}
        assert checkpointer.best_step() == min(measured, key=measured.get)


def test_validation_uses_the_averaged_parameters_and_the_same_masks_every_time(tmp_path):
    settings = SETTINGS._replace(ema_decay=0.9, total_steps=2)
    state = run(tmp_path, settings=settings)
    keys = batch_keys(4, jnp.int32(-1), np.arange(BATCH, dtype=np.int32))
    evaluate = lambda params: np.mean(
        [OBJECTIVE.evaluate(params, TEACHER, batch_at(k), keys, None)[0] for k in (1000, 1001)]
    )
    record = [r for r in metrics_of(tmp_path) if r["kind"] == "validation"][-1]
    assert record["loss"] == pytest.approx(evaluate(state.ema), rel=1e-5)
    assert abs(record["loss"] - evaluate(state.params)) > 1e-6


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_step_and_raises(tmp_path, number):
    with pytest.raises(Interrupted) as caught:
        run(tmp_path, batches=batches_then_signal(number, at=1), settings=SETTINGS._replace(validate_every=5))
    assert caught.value.signal_number == number
    assert steps_saved(tmp_path) == [1]  # the second batch is taken while the first step runs
    assert [r["step"] for r in metrics_of(tmp_path)] == [1]


def test_a_signal_during_the_last_step_lets_the_stage_finish(tmp_path):
    class Signalled(Recording):
        def place(self, batch):
            if self.events.count("step") == 6:  # the last step's validation
                os.kill(os.getpid(), signal.SIGTERM)
            return super().place(batch)

    state = run(tmp_path, parallel=Signalled(), validation=(1000,))
    assert state.step == 6 and steps_saved(tmp_path)[-1] == 6


def test_keys_depend_on_seed_step_and_row_alone():
    data = lambda seed, step, rows: jax.random.key_data(batch_keys(seed, jnp.int32(step), jnp.asarray(rows)))
    whole = np.asarray(data(0, 5, range(8)))
    np.testing.assert_array_equal(data(0, 5, [6, 2]), whole[[6, 2]])
    several = np.concatenate([whole, data(0, 6, range(8)), data(1, 5, range(8)), data(0, -1, range(8))])
    assert len(np.unique(several, axis=0)) == 32
