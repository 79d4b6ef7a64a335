import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from accdistill_jax.config.registry import Registry
from accdistill_jax.config.schema import TrainConfig
from accdistill_jax.config.tree import Options
from accdistill_jax.runtime.parallel import SPLIT, WHOLE, Parallel
from accdistill_jax.training.optimizer_state import make_layout
from accdistill_jax.training.registered import MuonOptions

TRAIN = TrainConfig(
    optimizer="adamw",
    optimizers=Options({"muon": MuonOptions(momentum=0.9)}),
    batch_size=4,
    learning_rate=1e-2,
    warmup="0 steps",
    final_learning_rate_fraction=0.1,
    weight_decay=0.3,
    b1=0.9,
    b2=0.95,
    clip_norm=0.5,
)


def parameters():
    """Leaves that divide over four devices, that do not, and one smaller than the devices are many."""
    rng = np.random.default_rng(0)
    shapes = {"kernel": (4, 6), "odd": {"kernel": (3, 5), "bias": (5,)}, "temperature": ()}
    return jax.tree.map(
        lambda shape: rng.normal(size=shape).astype(np.float32), shapes, is_leaf=lambda x: isinstance(x, tuple)
    )


def layouts(parallel, optimizer="adamw"):
    settings = dataclasses.replace(TRAIN, optimizer=optimizer)
    options = {"total_steps": 10, "num_segments": 40}
    return tuple(make_layout(settings, parameters(), shards=shards, **options) for shards in (0, parallel.num_devices))


def train(layout, parallel, *, steps=3, opt_state=None, params=None, first=0):
    """Some updates with a gradient that differs from device to device; parameters, state and norms on the host."""

    def step(state, frozen, batch):
        params, opt_state = state
        gradient = jax.tree.map(lambda p: jnp.mean(batch["x"]) * (1.0 + jnp.square(p)), params)
        params, opt_state, norm = layout.update(gradient, opt_state, params)
        return (params, opt_state), norm

    params = parameters() if params is None else params
    opt_state = layout.init(params) if opt_state is None else opt_state
    state = (parallel.replicate(params), layout.place(opt_state, parallel))
    mapped = parallel.map(step, state=(WHOLE, layout.spec))
    norms = []
    for k in range(first, first + steps):
        batch = {"x": np.random.default_rng(k).normal(size=8).astype(np.float32)}
        state, norm = mapped(state, parallel.replicate({}), parallel.place(batch))
        norms.append(float(parallel.fetch(norm)))
    return parallel.fetch(state[0]), layout.fetch(state[1], parallel), norms


def close(a, b, rtol=1e-5):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-6), a, b)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("mapping", ["shard_map", "pmap"])
def test_sharded_state_gives_the_replicated_updates_in_the_same_form(mapping, optimizer):
    """Clipping takes the norm over all parts, decay the leaves' own shapes."""
    parallel = Parallel(mapping)
    replicated, sharded = layouts(parallel, optimizer)
    reference, found = train(replicated, parallel), train(sharded, parallel)
    assert max(reference[2]) > TRAIN.clip_norm, "nothing was clipped"
    close(reference, found)
    assert jax.tree.map(np.shape, found[1]) == jax.tree.map(np.shape, replicated.init(parameters()))


def test_a_device_holds_its_part_of_the_moments_only():
    parallel = Parallel()
    sharded = layouts(parallel)[1]
    specs = jax.tree.leaves(sharded.spec, is_leaf=lambda s: s in (SPLIT, WHOLE))
    assert specs.count(SPLIT) == 2 * len(jax.tree.leaves(parameters()))
    placed = sharded.place(sharded.init(parameters()), parallel)
    held = sum(leaf.addressable_data(0).size for leaf in jax.tree.leaves(placed) if leaf.ndim)
    assert held == 2 * sum(-(-np.size(leaf) // 4) for leaf in jax.tree.leaves(parameters()))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_training_changes_layout_and_number_of_devices_on_its_way(optimizer):
    four, two = Parallel(), Parallel(devices=jax.devices()[:2])
    reference = train(layouts(four, optimizer)[0], four, steps=6)
    params, opt_state = None, None
    for first, layout, parallel in (
        (0, layouts(four, optimizer)[1], four),
        (2, layouts(two, optimizer)[0], two),
        (4, layouts(two, optimizer)[1], two),
    ):
        params, opt_state, _ = train(layout, parallel, steps=2, first=first, params=params, opt_state=opt_state)
    close(reference[:2], (params, opt_state))


@pytest.mark.parametrize("shards", [0, 4])
def test_an_elementwise_optimizer_is_one_line_and_one_registration(monkeypatch, shards):
    @dataclasses.dataclass(frozen=True)
    class LionOptions:
        b1: float = 0.9

    registry = Registry("optimizer")
    registry.register("lion", lambda config, options, leaves: optax.scale_by_lion(options.b1), options=LionOptions)
    monkeypatch.setattr("accdistill_jax.training.optimizer.OPTIMIZERS", registry)
    settings = dataclasses.replace(TRAIN, optimizer="lion", optimizers=Options({"lion": LionOptions(b1=0.8)}))
    layout = make_layout(settings, parameters(), total_steps=10, num_segments=40, shards=shards)
    params, state, _ = train(layout, Parallel())
    moved = np.abs(params["odd"]["bias"] - parameters()["odd"]["bias"])
    assert (moved > 1e-3).all() and jax.tree.map(np.shape, state) == jax.tree.map(np.shape, layout.init(parameters()))
