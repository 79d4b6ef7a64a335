"""Retrieval on cases with known ranks."""

import numpy as np
import pytest

from accdistill_jax.evaluation.retrieval import retrieval
from accdistill_jax.evaluation.retrieval.ranks import ComparedPairs, paired_ranks, unit_rows
from accdistill_jax.evaluation.retrieval.retrieval import (
    ACCEL_TO_PPG,
    PPG_TO_ACCEL,
    ProjectionPairs,
    retrieve,
    retrieve_within_participants,
    top1_by_pool_size,
)


def _noisy_pair(n, width=16, noise=1.0, seed=0):
    rng = np.random.default_rng(seed)
    ppg = rng.standard_normal((n, width))
    return unit_rows(ppg + noise * rng.standard_normal((n, width))), unit_rows(ppg)


def test_ranks_are_those_of_a_hand_made_case():
    gallery = np.eye(4, dtype=np.float32)
    query = unit_rows(
        np.array([[0.9, 0.1, 0.0, 0.0], [0.7, 0.6, 0.0, 0.1], [0.5, 0.4, 0.3, 0.0], [0.4, 0.4, 0.1, 0.4]])
    )
    forward, backward = paired_ranks(query, gallery)
    # Query 3 ties with two wrong candidates, which count against it.
    np.testing.assert_array_equal(forward, [1, 2, 3, 3])
    columns = query
    expected = [1 + sum(columns[i, j] >= columns[j, j] - 1e-6 for i in range(4) if i != j) for j in range(4)]
    np.testing.assert_array_equal(backward, expected)


@pytest.mark.parametrize("block", [1, 7, 64, 4096])
def test_ranks_equal_sorting_whatever_the_block_size(block):
    query, gallery = _noisy_pair(101)
    score = query.astype(np.float64) @ gallery.astype(np.float64).T
    forward, backward = paired_ranks(query, gallery, block=block)
    order = np.argsort(-score, axis=1)
    np.testing.assert_array_equal(forward, 1 + np.argmax(order == np.arange(101)[:, None], axis=1))
    order = np.argsort(-score.T, axis=1)
    np.testing.assert_array_equal(backward, 1 + np.argmax(order == np.arange(101)[:, None], axis=1))


@pytest.mark.parametrize("count", [101, 4100])
def test_ranks_among_drawn_pairs_are_those_of_the_pairs_alone(count):
    query, gallery = _noisy_pair(count)
    query[3] = query[5]
    gallery[3] = gallery[5]  # ties
    compared = ComparedPairs(query, gallery)
    rng = np.random.default_rng(0)
    for rows in (np.arange(count), rng.choice(count, 40, replace=False), np.array([3, 5])):
        for found, expected in zip(compared.ranks(rows), paired_ranks(query[rows], gallery[rows]), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_pools_are_equal_by_either_way_of_comparing(monkeypatch):
    pairs = ProjectionPairs(*_noisy_pair(150), np.repeat(np.arange(15), 10))
    once, _ = retrieve(pairs, pool_sizes=(50, 100), draws=9)
    monkeypatch.setattr(retrieval, "MOST_BITS_BYTES", 0)
    monkeypatch.setattr(retrieval, "ComparedPairs", None)
    assert retrieve(pairs, pool_sizes=(50, 100), draws=9)[0] == once


def test_a_constant_embedding_does_not_score():
    rng = np.random.default_rng(0)
    ppg = unit_rows(rng.standard_normal((300, 24)))
    constant = np.tile(unit_rows(rng.standard_normal((1, 24))), (300, 1))
    for accel in (constant, np.zeros((300, 24), np.float32), constant + 1e-9 * ppg):
        forward, backward = paired_ranks(ppg, unit_rows(accel), block=128)
        assert (forward == 300).all()  # every candidate is the same one
        if accel.any():  # one query is the closest to the constant: that is chance
            assert np.count_nonzero(backward == 1) == 1
        else:
            assert (backward == 300).all()
        both = retrieve(ProjectionPairs(accel, accel, np.repeat(np.arange(30), 10)), draws=5)[0]
        assert all(r.top[k].mean == 0.0 for r in both for k in (1, 3, 5))
        assert all(r.mean_rank.mean == r.pool_size for r in both)


def test_identical_embeddings_are_perfect_and_unrelated_ones_at_chance():
    participant = np.repeat(np.arange(40), 15)
    _, ppg = _noisy_pair(600, seed=1)
    perfect, ranks = retrieve(ProjectionPairs(ppg, ppg, participant), pool_sizes=(100,), draws=10)
    assert all(r.top[1].mean == 1.0 and r.top[1].std == 0.0 and r.times_chance == 100 for r in perfect)
    assert (ranks[ACCEL_TO_PPG] == 1).all()
    other = _noisy_pair(600, seed=2)[1]
    unrelated, _ = retrieve(ProjectionPairs(other, ppg, participant), pool_sizes=(100, "all"), draws=100)
    for r in unrelated:
        assert r.top[1].mean == pytest.approx(1 / r.pool_size, abs=0.006)
        assert r.mean_rank.mean == pytest.approx(r.chance_rank, rel=0.1)
        assert r.chance_top == {k: k / r.pool_size for k in (1, 3, 5)}
        assert r.top1.low <= 1 / r.pool_size <= r.top1.high


def test_both_directions_swap_with_the_signals():
    accel, ppg = _noisy_pair(200)
    people = np.repeat(np.arange(20), 10)
    one = {(r.direction, r.pool_size): r for r in retrieve(ProjectionPairs(accel, ppg, people), draws=20)[0]}
    other = {(r.direction, r.pool_size): r for r in retrieve(ProjectionPairs(ppg, accel, people), draws=20)[0]}
    for (direction, size), r in one.items():
        swapped = other[PPG_TO_ACCEL if direction == ACCEL_TO_PPG else ACCEL_TO_PPG, size]
        assert r.top == swapped.top
        assert r.median_rank == swapped.median_rank


def test_small_test_sets_use_all_segments_and_say_so():
    accel, ppg = _noisy_pair(150)
    results, _ = retrieve(ProjectionPairs(accel, ppg, np.arange(150)), pool_sizes=(100, 1000, "all"), draws=3)
    assert [(r.pool_size, r.pool_asked, bool(r.note)) for r in results if r.direction == ACCEL_TO_PPG] == [
        (100, 100, False),
        (150, 1000, True),
    ]
    assert "only 150 test segments" in results[-1].note
    assert {r.draws for r in results} == {3}


def test_draws_depend_on_the_seed_alone():
    accel, ppg = _noisy_pair(150)
    run = [
        retrieve(ProjectionPairs(accel, ppg, np.arange(150)), pool_sizes=(50,), draws=4, seed=s)[0][0].top[1]
        for s in (0, 0, 1)
    ]
    assert run[0] == run[1] != run[2]
    assert run[0].std > 0


def test_top1_by_pool_size_is_the_mean_over_random_pools():
    accel, ppg = _noisy_pair(120, noise=1.5)
    results, ranks = retrieve(ProjectionPairs(accel, ppg, np.arange(120)), pool_sizes=(30,), draws=800)
    exact = top1_by_pool_size(ranks[ACCEL_TO_PPG], np.array([1, 30, 120]))
    assert exact[0] == pytest.approx(1.0)
    assert exact[1] == pytest.approx(results[0].top[1].mean, abs=0.01)
    assert exact[2] == pytest.approx(np.mean(ranks[ACCEL_TO_PPG] == 1))


def test_within_a_person_knowing_who_it_is_is_worth_nothing():
    rng = np.random.default_rng(0)
    participant = np.r_[np.repeat(np.arange(25), 8), [99]]
    person = rng.standard_normal((100, 32))[participant]
    accel, ppg = (unit_rows(person + 0.1 * rng.standard_normal(person.shape)) for _ in range(2))
    between = retrieve(ProjectionPairs(accel, ppg, participant), pool_sizes=("all",), draws=2)[0][0]
    assert between.times_chance > 15
    for within in retrieve_within_participants(ProjectionPairs(accel, ppg, participant)):
        assert (within.participants, within.queries, within.mean_pool_size) == (25, 200, 8)
        assert within.chance_top1 == pytest.approx(1 / 8)
        assert within.top1.low <= 1 / 8 <= within.top1.high
        assert within.relative_rank.value == pytest.approx(0.5, abs=0.1)
    perfect = retrieve_within_participants(ProjectionPairs(ppg, ppg, participant))[0]
    assert (perfect.top1.value, perfect.relative_rank.value) == (1.0, 0.0)
    assert retrieve_within_participants(ProjectionPairs(ppg[:5], ppg[:5], np.arange(5))) == []


def test_unpaired_projections_are_refused():
    accel, ppg = _noisy_pair(10)
    with pytest.raises(ValueError, match="paired"):
        retrieve(ProjectionPairs(accel, ppg[:9], np.arange(10)))
    with pytest.raises(ValueError, match="at least two"):
        retrieve(ProjectionPairs(accel[:1], ppg[:1], np.arange(1)))


def test_known_ranks_in_the_full_pool_give_the_same_results():
    accel, ppg = _noisy_pair(120)
    people = np.repeat(np.arange(12), 10)
    results, ranks = retrieve(ProjectionPairs(accel, ppg, people), pool_sizes=(50, "all"), draws=5)
    again, kept = retrieve(ProjectionPairs(accel, ppg, people), pool_sizes=(50, "all"), draws=5, full_ranks=ranks)
    assert again == results
    assert all(np.array_equal(kept[d], ranks[d]) for d in (ACCEL_TO_PPG, PPG_TO_ACCEL))
    other = {ACCEL_TO_PPG: np.full(120, 120), PPG_TO_ACCEL: np.ones(120, np.int64)}
    whole, _ = retrieve(ProjectionPairs(accel, ppg, people), pool_sizes=("all",), draws=5, full_ranks=other)
    assert [r.mean_rank.mean for r in whole] == [120, 1]


def test_ranks_of_another_pool_are_refused():
    accel, ppg = _noisy_pair(20)
    for wrong in (np.ones(19, np.int64), np.zeros(20, np.int64), np.full(20, 21)):
        with pytest.raises(ValueError, match="not ranks of 20 segments"):
            retrieve(ProjectionPairs(accel, ppg, np.arange(20)), full_ranks={ACCEL_TO_PPG: wrong, PPG_TO_ACCEL: wrong})


def test_no_hit_at_all_is_not_below_chance():
    n = 200
    ppg = np.eye(n, dtype=np.float32)
    accel = np.roll(ppg, 1, axis=0)  # never right
    result = retrieve(ProjectionPairs(accel, ppg, np.repeat(np.arange(20), 10)), pool_sizes=("all",), draws=3)[0][0]
    assert result.top1.value == 0.0
    assert result.top1.low == 0.0
    assert result.top1.high == pytest.approx(1 - 0.025 ** (1 / n))
    perfect = retrieve(ProjectionPairs(ppg, ppg, np.repeat(np.arange(20), 10)), pool_sizes=("all",), draws=3)[0][0]
    assert (perfect.top1.high, perfect.top1.low) == (1.0, pytest.approx(0.025 ** (1 / n)))
