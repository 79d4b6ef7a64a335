"""Order of the segments, and batches of them."""

import dataclasses
import itertools

import numpy as np
import pytest

from accdistill_jax.data.pipeline import Pipeline, Sampling
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.store.split import SplitRule
from accdistill_jax.errors import UserError

ALL_TRAIN = SplitRule(fractions=(1, 0, 0))


@pytest.fixture
def stores(make_store):
    return [
        make_store("first", {"a": 20, "b": 7, "c": 10}, split=ALL_TRAIN),
        make_store("second", {"d": 5, "e": 8}, seed=1, split=ALL_TRAIN),
    ]


def pipeline(stores, **options):
    options = {"split": "train", "seed": 3, "batch_size": 8} | options
    names = {field.name for field in dataclasses.fields(Sampling)} & options.keys()
    return Pipeline(stores, Sampling(**{name: options.pop(name) for name in names}), **options)


def rows(pipe, steps):
    """(store, row) pairs of the global batches at these steps."""
    return [
        pair for step in steps for pair in zip(*(values.tolist() for values in pipe.global_indices(step)), strict=True)
    ]


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize("weights", [None, (0.7, 0.3)])
@pytest.mark.parametrize("hosts", [2, 4])
def test_batch_is_the_same_for_any_number_of_hosts(stores, hosts, weights):
    whole = pipeline(stores, weights=weights)
    parts = [pipeline(stores, weights=weights, host=host, hosts=hosts) for host in range(hosts)]
    for step in (0, 5, 17, 1000):
        blocks = [part.batch(step) for part in parts]
        assert all(len(block["ppg"]) == 8 // hosts for block in blocks)
        joined = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
        assert_equal(whole.batch(step), joined)
        np.testing.assert_array_equal(joined["position"], np.arange(8))


@pytest.mark.parametrize("weights", [None, (0.5, 0.5)])
def test_the_order_is_numpys_permutation_in_every_version(stores, weights):
    """Runs that were begun with an earlier version continue in the same order."""
    pipe, epochs = pipeline(stores, weights=weights), 3
    pools = [[(n, row) for n, store in enumerate(stores) for row in store.indices("train").tolist()]]
    if weights:
        pools = [[pair for pair in pools[0] if pair[0] == number] for number in range(2)]
    expected = [
        [
            pool[place]
            for epoch in range(epochs)
            for place in np.random.default_rng([1, 3, number, epoch]).permutation(len(pool))
        ]
        for number, pool in enumerate(pools)
    ]
    seen = rows(pipe, range(epochs * min(map(len, pools)) // 8))
    for number, order in enumerate(expected):
        mine = [pair for pair in seen if not weights or pair[0] == number]
        assert mine == order[: len(mine)] and len(mine) >= 16


@pytest.mark.parametrize(("weights", "size", "groups"), [(None, 50, 14), ((0.5, 0.5), 37, 10)])
def test_minutes_of_a_person_stand_together_in_new_groups_every_epoch(stores, weights, size, groups):
    """In groups of 4: 20, 7 and 10 minutes of the first store's people, 5 and 8 of the second's; stores with weights alone."""
    pipe = pipeline(stores, weights=weights, same_person=4, batch_size=10)
    sequence = [pair for pair in rows(pipe, range(30)) if weights is None or pair[0] == 0]
    person = lambda pair: (pair[0], stores[pair[0]].segments["participant"][pair[1]])
    pairs = []
    for epoch in (sequence[:size], sequence[size : 2 * size]):
        assert len(set(epoch)) == size
        people = [name for name, _ in itertools.groupby(epoch, key=person)]
        assert len(people) <= groups and people != sorted(people)  # fewer where two groups of a person meet
        pairs.append({frozenset(pair) for pair in itertools.pairwise(epoch)})
    assert len(pairs[0] & pairs[1]) < size / 2  # other minutes meet in the next epoch


@pytest.mark.parametrize("weights", [None, (0.5, 0.5)])
def test_minutes_of_about_the_same_heart_rate_stand_together(stores, weights):
    for number, store in enumerate(stores):
        rates = np.random.default_rng(number).permutation(np.linspace(50, 110, store.num_segments))
        rates[[3, 7]] = np.nan
        store.segments["hr_bpm"] = rates
    pipe = pipeline(stores, weights=weights, same_rate=4, batch_size=4)
    size = 50 if weights is None else 37
    sequence = [pair for pair in rows(pipe, range(40)) if weights is None or pair[0] == 0]
    rate = np.array([stores[number].segments["hr_bpm"][row] for number, row in sequence])
    steps = np.abs(np.diff(rate[:size]))
    assert np.nanmedian(steps) < 3.5 and np.nanmax(steps) > 20  # within a group, and from one to the next
    epochs = [sequence[:size], sequence[size : 2 * size]]
    assert all(len(set(epoch)) == size for epoch in epochs)
    pairs = [{frozenset(pair) for pair in itertools.pairwise(epoch)} for epoch in epochs]
    assert len(pairs[0] & pairs[1]) < size - 10  # other minutes meet in the next epoch


def test_groups_of_a_heart_rate_need_one(stores):
    for store in stores:
        store.segments["hr_bpm"] = np.full(store.num_segments, np.nan)
    with pytest.raises(UserError, match="same_rate 4: no training segment has a heart rate"):
        pipeline(stores, same_rate=4)
    with pytest.raises(UserError, match="same_person 2 and same_rate 4: one of them must be 1"):
        pipeline(stores, same_rate=4, same_person=2)


@pytest.mark.parametrize(("key", "hosts"), [("same_person", 2), ("same_person", 5), ("same_rate", 5)])
def test_an_order_in_groups_is_the_same_for_any_hosts_and_resumes(stores, key, hosts):
    grouped = {key: 4, "batch_size": 10}
    whole = pipeline(stores, **grouped)
    parts = [pipeline(stores, host=host, hosts=hosts, **grouped) for host in range(hosts)]
    for step in (3, 40):
        blocks = [part.batch(step) for part in parts]
        assert_equal(whole.batch(step), {name: np.concatenate([b[name] for b in blocks]) for name in blocks[0]})
    assert_equal(list(pipeline(stores, **grouped).iterate(7, 2))[1], whole.batch(8))
    assert rows(whole, [3]) != rows(pipeline(stores, seed=4, **grouped), [3])


def test_batch_holds_what_the_indices_say(stores):
    pipe = pipeline(stores)
    batch = pipe.batch(2)
    for position, (number, row) in enumerate(rows(pipe, [2])):
        one = stores[number].read(np.array([row]))
        for name, values in one.items():
            np.testing.assert_array_equal(batch[name][position], values[0])
    assert {name: (values.shape, values.dtype.name) for name, values in batch.items()} == {
        "ppg": ((8, 640, 2), "int16"),
        "ppg_scale": ((8, 2), "float32"),
        "ppg_offset": ((8, 2), "float32"),
        "accel": ((8, 640, 3), "int16"),
        "accel_scale": ((8, 3), "float32"),
        "accel_offset": ((8, 3), "float32"),
        "position": ((8,), "int32"),
    }


@pytest.mark.parametrize(("threads", "prefetch"), [(0, 0), (2, 4), (3, 1)])
def test_resuming_at_a_step_equals_going_on(stores, threads, prefetch):
    pipe = pipeline(stores)
    straight = list(pipe.iterate(0, 12, threads=threads, prefetch=prefetch))
    assert len(straight) == 12
    resumed = list(pipeline(stores).iterate(7, 5, threads=threads, prefetch=prefetch))
    for step, batch in enumerate(straight):
        assert_equal(batch, pipe.batch(step))
    for batch, again in zip(straight[7:], resumed, strict=True):
        assert_equal(batch, again)


def test_iterating_without_end(stores):
    pipe = pipeline(stores)
    first = list(itertools.islice(pipe.iterate(3), 2))
    assert_equal(first[1], pipe.batch(4))


def test_every_epoch_covers_every_segment_once_in_a_new_order(stores):
    pipe = pipeline(stores, batch_size=7)
    assert pipe.num_segments == 50
    sequence = rows(pipe, range(50))
    epochs = [sequence[start : start + 50] for start in range(0, 350, 50)]
    everything = sorted([(0, row) for row in range(37)] + [(1, row) for row in range(13)])
    assert all(sorted(epoch) == everything for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 7
    assert epochs[0] != everything


def test_a_batch_larger_than_an_epoch(stores):
    pipe = pipeline(stores[1:], batch_size=30)
    counts = np.bincount(pipe.global_indices(0)[1], minlength=13)
    assert counts.min() >= 2 and counts.max() <= 3 and counts.sum() == 30


def test_order_does_not_depend_on_the_batch_size(stores):
    assert rows(pipeline(stores, batch_size=4), range(30)) == rows(pipeline(stores, batch_size=40), range(3))


def test_seeds_differ(stores):
    a, b = (rows(pipeline(stores, seed=seed), range(20)) for seed in (0, 1))
    assert np.mean([x == y for x, y in zip(a, b, strict=True)]) < 0.15


@pytest.mark.parametrize("weights", [(0.7, 0.3), (1, 1), (99, 1), (5, 3)])
def test_weights_hold_in_every_stretch(stores, weights):
    pipe = pipeline(stores, weights=weights, batch_size=16)
    taken = np.concatenate([pipe.global_indices(step)[0] for step in range(600)])
    share = weights[1] / sum(weights)
    excess = np.cumsum(taken == 1) - share * np.arange(1, len(taken) + 1)
    # Shares are rounded to 1 / 4096; beyond that the excess never reaches a whole row.
    assert (np.abs(excess) < 1 + np.arange(1, len(taken) + 1) / 4096).all()


def test_weighted_stores_walk_their_own_epochs(stores):
    sequence = rows(pipeline(stores, weights=(1, 1), batch_size=2), range(13 * 4))
    for number, size in ((0, 37), (1, 13)):
        own = [row for store, row in sequence if store == number]
        assert sorted(own[:size]) == list(range(size))
    small = [row for store, row in sequence if store == 1]
    assert sorted(small[13:26]) == list(range(13)) and small[13:26] != small[:13]


def test_only_the_split_is_read(make_store):
    rule = SplitRule(assignment={"a": "train", "b": "validation", "c": "test"})
    store = make_store("s", {"a": 6, "b": 4, "c": 3}, split=rule)
    for split, expected in (("train", range(6)), ("validation", range(6, 10)), ("test", range(10, 13))):
        assert {row for _, row in rows(pipeline([store], split=split), range(9))} == set(expected)


def test_stores_that_do_not_fit_are_both_named(make_store, stores, settings):
    one_channel = make_store("mono", {"a": 3}, channels=1, split=ALL_TRAIN)
    with pytest.raises(UserError, match=r"first has 2 ppg channels \(ppg0, ppg1\), .*mono has 1 \(ppg0\)"):
        pipeline([stores[0], one_channel])
    slow = make_store(
        "slow", {"a": 3}, split=ALL_TRAIN, settings=PreprocessSettings(rate_hz=32.0, segment_s=10.0, hop_s=10.0)
    )
    with pytest.raises(UserError, match="first has 640 samples at 64 Hz, .*slow 320 at 32 Hz"):
        pipeline([stores[0], slow])
    wide = make_store(
        "wide", {"a": 3}, split=ALL_TRAIN, settings=dataclasses.replace(settings, ppg_band_hz=(0.1, 12.0))
    )
    with pytest.raises(
        UserError, match=r"first is filtered by .*0\.5 to 8 Hz, .*wide by .*0\.1 to 12 Hz; .*--ppg-band-hz"
    ):
        pipeline([stores[0], wide])
    pipeline([stores[0], wide], signals=("accel",))  # reads no PPG


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "validation"}, "first: split 'validation' has no segment"),
        ({"split": "valid"}, "split 'valid' is not one of"),
        ({"batch_size": 9, "hosts": 2}, "batch size 9 is not a positive multiple of the number of hosts, 2"),
        ({"batch_size": 0}, "batch size 0"),
        ({"host": 2, "hosts": 2}, "host 2 of 2"),
        ({"weights": (1.0,)}, "1 weights are given for 2 stores"),
        ({"weights": (1.0, 0.0)}, "must be positive"),
        ({"weights": (1.0, float("nan"))}, "must be positive"),
    ],
)
def test_bad_arguments_are_named(stores, options, message):
    with pytest.raises(UserError, match=message):
        pipeline(stores, **options)
    with pytest.raises(UserError, match="no store is given"):
        pipeline([])
    with pytest.raises(ValueError, match="step must be"):
        pipeline(stores).global_indices(-1)


def test_signals_that_are_not_read_may_differ(stores, make_store):
    alone = make_store("alone", {"f": 9, "g": 8}, channels=0, seed=2, split=ALL_TRAIN)
    pipe = pipeline([stores[0], alone], signals=("accel",))
    batches = [pipe.batch(step) for step in range(4)]
    assert all(set(batch) == {"accel", "accel_scale", "accel_offset", "position"} for batch in batches)
    read = [stores[0].read(np.arange(37)), alone.read(np.arange(17))]
    for step, batch in enumerate(batches):
        for place, (number, row) in enumerate(rows(pipe, [step])):
            np.testing.assert_array_equal(batch["accel"][place], read[number]["accel"][row])
    assert set(pipeline([alone]).batch(0)) == set(batches[0])  # all signals of the first store
    with pytest.raises(UserError, match="first has 2 ppg channels .ppg0, ppg1., .*alone has 0 .none."):
        pipeline([stores[0], alone])
