import jax
import jax.numpy as jnp
import numpy as np
import pytest

from accdistill_jax.errors import UserError
from accdistill_jax.runtime.parallel import AXIS, Parallel


@pytest.fixture(params=["shard_map", "pmap"])
def parallel(request):
    return Parallel(request.param)


def test_batch_that_does_not_divide_is_refused_with_its_key(parallel):
    parallel.check_batch(8, key="student.train.batch_size")
    with pytest.raises(UserError, match=r"config\.student\.train\.batch_size = 6 .* 4 devices"):
        parallel.check_batch(6, key="student.train.batch_size")


def test_replicate_and_fetch_are_inverse_bit_for_bit(parallel):
    tree = {"a": np.array([[np.nan, -0.0], [1e-42, 3]], np.float32), "b": {"n": np.int32(7)}, "none": None}
    placed = parallel.replicate(tree)
    back = parallel.fetch(placed)
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    for got, wanted in zip(jax.tree.leaves(back), jax.tree.leaves(tree), strict=True):
        assert isinstance(np.asarray(got), np.ndarray) and np.asarray(got).tobytes() == np.asarray(wanted).tobytes()


def test_rows_are_split_in_order_and_come_back_in_order(parallel):
    rows = np.arange(8 * 3).reshape(8, 3).astype(np.float32)

    def fn(scale, batch):
        where = jnp.broadcast_to(jax.lax.axis_index(AXIS), (batch["x"].shape[0], 1)).astype(jnp.float32)
        return jnp.concatenate([batch["x"] * scale, where], axis=1)

    out = parallel.map_rows(fn)(parallel.replicate(np.float32(2)), parallel.place({"x": rows}))
    got = parallel.gather(out)
    np.testing.assert_array_equal(got[:, :3], 2 * rows)
    np.testing.assert_array_equal(got[:, 3], [0, 0, 1, 1, 2, 2, 3, 3])


@pytest.mark.parametrize("donate", [False, True])
def test_step_sees_its_own_rows_and_collectives_reach_all_devices(parallel, donate):
    def step(state, frozen, batch):
        assert batch["x"].shape == (2, 3)  # this device's rows
        total = jax.lax.psum(jnp.sum(batch["x"]), AXIS)
        return state + total * frozen["w"], {"total": total}

    rows = np.arange(24).reshape(8, 3).astype(np.float32)
    mapped = parallel.map(step, donate=donate)
    state = parallel.replicate(np.float32(1))
    frozen = parallel.replicate({"w": np.float32(0.5)})
    for _ in range(2):
        state, metrics = mapped(state, frozen, parallel.place({"x": rows}))
    assert float(parallel.fetch(state)) == 1 + 2 * 0.5 * rows.sum()
    assert float(parallel.fetch(metrics)["total"]) == rows.sum()


def test_fewer_devices_can_be_chosen(parallel):
    two = Parallel(parallel.mapping, devices=jax.devices()[1:3])
    assert (parallel.num_devices, two.num_devices, two.num_local) == (4, 2, 2)
    out = two.map_rows(lambda p, batch: batch["x"] + p)(two.replicate(np.int32(1)), two.place({"x": np.arange(4)}))
    np.testing.assert_array_equal(two.gather(out), [1, 2, 3, 4])
    assert set(out.devices()) == set(jax.devices()[1:3])


class Gpu:
    """The attributes of a device that decide the compiler's options."""

    platform, process_index, id = "gpu", 0, 0


def test_the_compiler_has_options_on_gpus_alone_and_the_user_s_flags_win(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    assert Parallel().compiler_options() is None
    parallel = Parallel()
    parallel.devices = [Gpu()]
    assert parallel.compiler_options() == {"xla_gpu_enable_triton_gemm": False}
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_enable_triton_gemm=true")
    assert parallel.compiler_options() is None
