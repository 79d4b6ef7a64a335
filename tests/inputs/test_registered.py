"""Registration of augmentations: built-in numbers, a further augmentation, collisions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from accdistill_jax.config.fields import number, setting
from accdistill_jax.config.registry import AUGMENTATIONS, Registry
from accdistill_jax.inputs import augment as augment_module
from accdistill_jax.inputs import registered as registered_module
from accdistill_jax.inputs.augment import augment, order
from accdistill_jax.inputs.registered import Augmentation, RegisteredAugmentation, register_augmentation

BUILT_IN = ("cut_out", "magnitude_warp", "gaussian_noise", "channel_permute", "time_warp")


@pytest.fixture
def registry(monkeypatch):
    """A registry with the built-in augmentations alone, to which a test may add."""
    copy = Registry("augmentation")
    for name in BUILT_IN:
        copy.register(name, AUGMENTATIONS.get(name), options=AUGMENTATIONS.entry(name).options)
    for module in (augment_module, registered_module):
        monkeypatch.setattr(module, "AUGMENTATIONS", copy)
    return copy


def unchanged(key, x, spec, groups):
    return x


def flipped(key, x, spec, groups):
    """Turns the signal upside down."""
    return -x


def augmented(specs):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(16, 64, 4)), jnp.float32)
    keys = jax.random.split(jax.random.key(1), 16)
    return np.asarray(jax.jit(lambda keys, x: augment(keys, x, specs, groups=2))(keys, x))


def test_built_in_augmentations_keep_the_streams_and_the_order_of_earlier_runs():
    assert tuple(name for name in order() if name in BUILT_IN) == BUILT_IN
    assert [AUGMENTATIONS.get(name).stream for name in BUILT_IN] == [0, 1, 2, 3, 4]


@pytest.mark.slow
@pytest.mark.parametrize("position", [-1, 0.5, 1.5, 2.5, 3.5, 9])
def test_a_further_augmentation_changes_no_bit_of_the_others(position, registry):
    specs = {name: Augmentation(0.5, 0.1, 5) for name in BUILT_IN}
    before = augmented(specs)
    register_augmentation("unchanged", RegisteredAugmentation(unchanged, stream=5, position=position))
    among_first = [name for name in order() if name in (*BUILT_IN, "unchanged")]
    assert among_first.index("unchanged") == sum(place < position for place in range(5))
    assert augmented(specs).tobytes() == before.tobytes()  # registered, not used
    with_new = augmented(specs | {"unchanged": Augmentation(1.0, 0.1)})
    assert with_new.tobytes() == before.tobytes()  # used between the others


def test_a_further_augmentation_is_applied_with_its_own_options(registry):
    @dataclasses.dataclass(frozen=True)
    class Flip(Augmentation):
        axis: float = setting(0.0, number(), "an option of its own")

    register_augmentation("flip", RegisteredAugmentation(flipped, stream=17), options=Flip)
    assert order()[-1] == "flip" and registry.entry("flip").options is Flip
    plain = augmented({})
    half = augmented({"flip": Flip(probability=0.5)})
    turned = np.all(half == -plain, axis=(1, 2))
    assert 0 < turned.sum() < len(turned) and np.array_equal(half[~turned], plain[~turned])
    assert np.array_equal(augmented({"flip": Flip()}), plain)  # not listed in a config: never


def test_a_stream_in_use_is_refused(registry):
    with pytest.raises(ValueError, match="augmentation 'flip': stream 3 belongs to 'channel_permute'; take 5"):
        register_augmentation("flip", RegisteredAugmentation(flipped, stream=3))
    assert "flip" not in registry.names()


def test_a_default_probability_above_zero_is_refused(registry):
    @dataclasses.dataclass(frozen=True)
    class Eager(Augmentation):
        probability: float = setting(0.5, number(0, 1), "probability per segment")

    with pytest.raises(ValueError, match="'flip': its default probability must be 0"):
        register_augmentation("flip", RegisteredAugmentation(flipped, stream=9), options=Eager)
