"""Subsets of labels keep people together and are nested."""

import numpy as np
import pytest

from accdistill_jax.data.store.labels import labelled_subset


def _subset_participants(sizes=(5, 1, 30, 12, 8, 40)):
    participant = np.repeat([f"p{i}" for i in range(len(sizes))], sizes)
    return participant, np.ones(len(participant), bool)


@pytest.mark.parametrize("seed", range(8))
def test_subsets_are_whole_people_but_the_last_and_nested(seed):
    participant, known = _subset_participants()
    known[::7] = False
    before = np.array([], int)
    for fraction in (0.05, 0.12, 0.3, 0.301, 0.77, 1.0):
        subset = labelled_subset(participant, known, fraction, seed, minimum=1)
        rows = subset.rows
        assert len(rows) == round(fraction * known.sum()) == len(np.unique(rows))
        assert known[rows].all() and (np.diff(rows) > 0).all()
        assert np.isin(before, rows).all()
        partial = [
            p
            for p in np.unique(participant[rows])
            if not np.isin(np.flatnonzero(known & (participant == p)), rows).all()
        ]
        assert len(partial) <= 1
        assert subset.participants == len(np.unique(participant[rows]))
        assert not subset.raised
        before = rows
    assert len(before) == subset.labelled == known.sum()


def test_subsets_depend_on_the_seed_and_the_minimum_is_reported():
    participant, known = _subset_participants()
    chosen = {tuple(labelled_subset(participant, known, 0.1, s).rows) for s in range(20)}
    assert len(chosen) > 10
    assert tuple(labelled_subset(participant, known, 0.1, 3).rows) in chosen
    few = labelled_subset(participant, known, 0.01, 0)
    assert (len(few.rows), few.raised) == (10, True)
    assert not labelled_subset(participant, known, 0.2, 0).raised
    tiny = labelled_subset(participant[:6], known[:6], 1.0, 0)
    assert (len(tiny.rows), tiny.raised) == (6, False)
    for wrong in (0.0, -0.1, 1.2):
        with pytest.raises(ValueError, match="fraction"):
            labelled_subset(participant, known, wrong, 0)


def test_people_come_in_the_same_order_for_every_target():
    participant, known = _subset_participants(sizes=(10,) * 30)
    other = known.copy()
    other[::2] = False
    for seed in range(5):
        people = [set(participant[labelled_subset(participant, k, 0.2, seed).rows]) for k in (known, other)]
        assert people[0] == people[1]


def test_every_person_comes_first_equally_often():
    participant, known = _subset_participants(sizes=(30, 10, 20))
    first = [participant[labelled_subset(participant, known, 0.01, s, minimum=1).rows[0]] for s in range(600)]
    counts = np.unique(first, return_counts=True)[1]
    assert len(counts) == 3 and (abs(counts - 200) < 60).all()
