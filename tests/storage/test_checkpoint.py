import logging
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accdistill_jax.errors import UserError
from accdistill_jax.storage import checkpoint
from accdistill_jax.storage.arrays import params_fingerprint
from accdistill_jax.storage.checkpoint import Checkpointer
from accdistill_jax.storage.export import load_params, save_params


class State(NamedTuple):
    step: jax.Array
    params: dict
    opt_state: tuple
    ema: dict | None


def make_state(seed=0, *, width=5, ema=True):
    keys = jax.random.split(jax.random.key(seed), 3)
    params = {
        "encoder": {"kernel": jax.random.normal(keys[0], (7, width)), "bias": jnp.zeros(width)},
        "half": jax.random.normal(keys[1], (3,)).astype(jnp.bfloat16),
        "odd": jnp.array([jnp.nan, -0.0, jnp.inf, 1e-42]),
    }
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    return State(jnp.int32(seed), params, optimizer.init(params), params if ema else None)


def assert_same_bits(left, right):
    left, right = jax.tree.map(np.asarray, (left, right))
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def steps_on_disk(folder):
    return sorted(int(path.stem) for path in Path(folder).glob("*.json"))


@pytest.mark.parametrize("name", ["[x]", "a*b?", "a\\b", os.fsdecode(b"Ren\xe9")])
def test_folders_whose_names_orbax_would_mistake(tmp_path, name):
    """Such a save used to write no array without an error, or wrote into another folder."""
    state, folder = make_state(), tmp_path / name / "checkpoints"
    with Checkpointer(folder) as saver:
        saver.save(1, state)
    with Checkpointer(folder) as reader:
        assert reader.latest_valid_step() == 1
        assert_same_bits(reader.restore(1, state).state, state)
    save_params(tmp_path / name / "export", state.params, {})
    assert_same_bits(load_params(tmp_path / name / "export", state.params).state, state.params)
    assert os.listdir(tmp_path) == [name]


def test_checkpoints_of_a_sibling_are_not_taken_for_these(tmp_path):
    for name in ("ab", "a*"):
        (tmp_path / name).mkdir()
    with Checkpointer(tmp_path / "ab") as other:
        other.save(9, make_state(), metric=0.1)
    with Checkpointer(tmp_path / "a*") as reader:
        assert reader.best_step() is None and reader.latest_valid_step() is None


@pytest.mark.parametrize("name", ["plain", "[x]"])
def test_relative_folders(tmp_path, monkeypatch, name):
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    state = make_state()
    save_params("export", state.params, {})
    assert_same_bits(load_params("export", state.params).state, state.params)
    with Checkpointer("checkpoints") as saver:
        saver.save(1, state)
        assert_same_bits(saver.restore(1, state).state, state)


@pytest.mark.parametrize("ema", [True, False])
def test_restore_is_bit_exact_with_meta(tmp_path, ema):
    state = make_state(3, ema=ema)
    with Checkpointer(tmp_path) as saver:
        saver.save(3, state, metric=0.5, meta={"position": 3, "teacher": "abc"})
    with Checkpointer(tmp_path) as reader:
        assert reader.latest_valid_step() == 3
        restored, meta = reader.restore(3, jax.eval_shape(lambda: state))
    assert_same_bits(state, restored)
    assert meta == {"position": 3, "teacher": "abc"}


def test_replicated_state_restores_to_another_layout(tmp_path):
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    state = make_state(1)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, jax.device_put(state, replicated))
        restored = checkpointer.restore(1, state).state
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(restored))
    assert_same_bits(state, jax.device_put(restored, jax.devices()[2]))


def test_state_may_be_overwritten_as_soon_as_save_returns(tmp_path):
    state = jax.tree.map(np.array, make_state(2))
    before = jax.tree.map(np.array, state)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(2, state)
        for leaf in jax.tree.leaves(state):
            leaf[...] = 1
        assert_same_bits(before, checkpointer.restore(2, before).state)


def test_last_and_best_are_kept(tmp_path):
    with Checkpointer(tmp_path, keep_last=2) as checkpointer:
        for step, metric in [(10, 3.0), (20, 1.0), (30, float("nan")), (40, 2.0), (50, None)]:
            checkpointer.save(step, make_state(step), metric=metric)
        assert checkpointer.best_step() == 20
        assert steps_on_disk(tmp_path) == [20, 40, 50]
        assert sorted(int(p.name) for p in tmp_path.iterdir() if p.is_dir()) == [20, 40, 50]
        assert_same_bits(make_state(20), checkpointer.restore(20, make_state()).state)


def test_best_may_be_the_largest(tmp_path):
    with Checkpointer(tmp_path, keep_last=1, best_metric_mode="max") as checkpointer:
        for step, metric in [(1, 1.0), (2, 5.0), (3, 2.0)]:
            checkpointer.save(step, make_state(step), metric=metric)
        checkpointer.wait()
        assert (steps_on_disk(tmp_path), checkpointer.best_step()) == ([2, 3], 2)


def save_two(folder):
    with Checkpointer(folder) as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, make_state(step))


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_byte_of_each_array_file(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def files_of(folder, pattern="**/*"):
    return [path for path in Path(folder).glob(pattern) if path.is_file() and path.stat().st_size]


@pytest.mark.parametrize("damage", [truncate, flip_a_byte_of_each_array_file, Path.unlink])
def test_damaged_newest_is_named_and_the_one_before_used(tmp_path, caplog, damage):
    save_two(tmp_path)
    for path in files_of(tmp_path / "2", "**/d/*"):
        damage(path)
    with Checkpointer(tmp_path) as checkpointer, caplog.at_level(logging.WARNING):
        assert checkpointer.latest_valid_step() == 1
        assert_same_bits(make_state(1), checkpointer.restore(1, make_state()).state)
        with pytest.raises(UserError, match=rf"checkpoint {tmp_path}/2 is damaged"):
            checkpointer.restore(2, make_state())
    assert f"checkpoint {tmp_path}/2 is damaged" in caplog.text


def test_no_single_damaged_file_goes_unnoticed(tmp_path):
    """Any file of the newest checkpoint is truncated: the whole state is restored, or the checkpoint before it."""
    save_two(tmp_path)
    for path in [*files_of(tmp_path / "2"), tmp_path / "2.json"]:
        whole = path.read_bytes()
        truncate(path)
        with Checkpointer(tmp_path) as checkpointer:
            step = checkpointer.latest_valid_step()
            assert_same_bits(make_state(step), checkpointer.restore(step, make_state()).state)
        path.write_bytes(whole)


def test_all_damaged_is_refused_and_saving_again_mends_it(tmp_path):
    save_two(tmp_path)
    for path in files_of(tmp_path, "*/**/d/*"):
        path.unlink()
    with Checkpointer(tmp_path) as checkpointer:
        with pytest.raises(
            UserError, match=rf"every checkpoint in {tmp_path} is damaged \(steps 2, 1\): .* to train anew"
        ):
            checkpointer.latest_valid_step()
        checkpointer.save(2, make_state(9))
        assert checkpointer.latest_valid_step() == 2
        assert_same_bits(make_state(9), checkpointer.restore(2, make_state()).state)


def test_half_written_checkpoint_is_never_taken(tmp_path):
    program = textwrap.dedent("""
        import os, signal, sys, numpy as np
        from accdistill_jax.storage import checkpoint
        with checkpoint.Checkpointer(sys.argv[1]) as checkpointer:
            checkpointer.save(1, {"a": np.zeros(3)})
            checkpointer.wait()
            checkpoint.write_atomically = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
            checkpointer.save(2, {"a": np.zeros(3)})
    """)
    assert subprocess.run([sys.executable, "-c", program, tmp_path], timeout=120).returncode == -9
    assert (tmp_path / "2").is_dir()  # killed between the arrays and the record
    (tmp_path / "3.orbax-checkpoint-tmp").mkdir()  # killed while the arrays were written
    (tmp_path / "3.orbax-checkpoint-tmp" / "part").write_text("x")
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.latest_valid_step() == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "1.json"]


def test_killed_while_saving_keeps_a_whole_checkpoint(tmp_path):
    """Kill -9 at a random moment of a series of saves."""
    program = textwrap.dedent("""
        import sys, numpy as np
        from accdistill_jax.storage.checkpoint import Checkpointer
        with Checkpointer(sys.argv[1]) as checkpointer:
            for step in range(1, 10**6):
                checkpointer.save(step, {"a": np.full(200_000, step), "b": np.full(3, step)})
                print(step, flush=True)
    """)
    process = subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if int(line) == 4:
            break
    time.sleep(np.random.default_rng().uniform(0, 0.3))
    process.kill()
    process.stdout.close()
    process.wait()
    with Checkpointer(tmp_path) as checkpointer:
        step = checkpointer.latest_valid_step()
        state = checkpointer.restore(step, {"a": np.zeros(200_000, int), "b": np.zeros(3, int)}).state
    assert step >= 3 and (state["a"] == step).all() and (state["b"] == step).all()


def test_other_shapes_and_structures_name_the_first_parameter(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, make_state(1, width=5))
        with pytest.raises(UserError, match=r"params/encoder/bias is float32\[5\], .* needs float32\[6\]"):
            checkpointer.restore(1, make_state(1, width=6))
        with pytest.raises(UserError, match="which this configuration does not have"):
            checkpointer.restore(1, make_state(1, ema=False))
        with pytest.raises(UserError, match="holds no more"):
            checkpointer.restore(1, {"state": make_state(1), "more": jnp.zeros(1)} | {"more": jnp.zeros(1)})


def test_missing_step_is_named(tmp_path):
    with Checkpointer(tmp_path) as checkpointer, pytest.raises(UserError, match=f"{tmp_path}/7"):
        checkpointer.restore(7, make_state())


def test_full_disk_while_saving_names_the_folder_and_keeps_the_last(tmp_path):
    """The operating system refuses to write more than a limit, in the background as a full disk would."""
    program = textwrap.dedent("""
        import resource, sys, numpy as np
        from accdistill_jax.storage.checkpoint import Checkpointer
        from accdistill_jax.errors import UserError
        small, large = {"a": np.zeros(1000)}, {"a": np.random.default_rng(0).normal(size=2_000_000)}
        checkpointer = Checkpointer(sys.argv[1])
        checkpointer.save(1, small)
        checkpointer.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
        try:
            checkpointer.save(2, large)
            checkpointer.wait()
        except UserError as error:
            print(error)
        print(checkpointer.latest_valid_step())
        checkpointer.save(3, small)
        print(checkpointer.latest_valid_step())
        checkpointer.close()
    """)
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, timeout=120)
    message, latest, after = done.stdout.splitlines()
    assert str(tmp_path) in message and "no space left" in message and (latest, after) == ("1", "3"), done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "1.json", "3", "3.json"]


def test_error_of_a_background_save_comes_out_at_the_next_save(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, make_state(1))
        checkpointer.wait()
        monkeypatch.setattr(checkpoint, "write_atomically", full)
        checkpointer.save(2, make_state(2))
        with pytest.raises(UserError, match=str(tmp_path)):
            checkpointer.save(3, make_state(3))
        monkeypatch.undo()
        assert checkpointer.latest_valid_step() == 1


def test_export_round_trip(tmp_path):
    params = make_state(4).params
    saved = save_params(tmp_path / "teacher", params, {"encoder": {"width": 5}})
    loaded, meta = load_params(tmp_path / "teacher")
    assert_same_bits(params, loaded)
    assert saved == meta["fingerprint"] == params_fingerprint(params) and meta["encoder"] == {"width": 5}
    assert_same_bits(params, load_params(tmp_path / "teacher", jax.eval_shape(lambda: params)).state)


def test_export_replaces_an_older_one(tmp_path):
    for seed in (1, 2):
        save_params(tmp_path, make_state(seed).params, {"seed": seed})
    loaded = load_params(tmp_path)
    assert_same_bits(make_state(2).params, loaded.state)
    assert loaded.meta["seed"] == 2


def test_export_problems_are_named(tmp_path):
    with pytest.raises(UserError, match="no exported parameters in .*nowhere"):
        load_params(tmp_path / "nowhere")
    save_params(tmp_path / "a", make_state(1).params, {})
    with pytest.raises(UserError, match="encoder/bias"):
        load_params(tmp_path / "a", make_state(1, width=6).params)
    for path in files_of(tmp_path / "a" / "params", "**/d/*"):
        truncate(path)
    with pytest.raises(UserError, match=f"{tmp_path}/a are damaged"):
        load_params(tmp_path / "a")


def test_export_without_its_last_file_is_none(tmp_path):
    save_params(tmp_path, make_state(1).params, {})
    (tmp_path / "export.json").unlink()
    with pytest.raises(UserError, match="no exported parameters"):
        load_params(tmp_path)


def test_fingerprint_ignores_containers_devices_and_order():
    params = make_state(1).params
    others = [
        flax.core.freeze(params),
        dict(reversed(params.items())),
        jax.tree.map(np.asarray, params),
        jax.device_put(params, jax.devices()[3]),
    ]
    assert {params_fingerprint(other) for other in others} == {params_fingerprint(params)}


@settings(max_examples=30, deadline=None)
@given(leaf=st.sampled_from(["kernel", "bias"]), index=st.integers(0, 4), bit=st.integers(0, 31))
def test_fingerprint_sees_every_bit(leaf, index, bit):
    params = jax.tree.map(np.array, make_state(1).params)
    changed = jax.tree.map(np.array, params)
    changed["encoder"][leaf].reshape(-1).view(np.uint32)[index] ^= np.uint32(1 << bit)
    assert params_fingerprint(changed) != params_fingerprint(params)


def test_fingerprint_sees_names_shapes_and_dtypes():
    a = np.zeros(6, np.float32)
    variants = [{"a": a}, {"b": a}, {"a": a.reshape(2, 3)}, {"a": a.view(np.int32)}, {"a": {"a": a}}]
    assert len({params_fingerprint(variant) for variant in variants}) == len(variants)
