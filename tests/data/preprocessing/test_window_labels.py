"""A user's labels over windows, as labels of segments."""

import numpy as np

from accdistill_jax.data.preprocessing.window_labels import labels_of_segments, too_short_labels
from accdistill_jax.data.recording import LabelWindows

NAN = np.nan


def labels(values, start_s, *, duration_s=30.0, segments=(0.0, 60.0, 120.0)):
    windows = LabelWindows(np.array(start_s, float), duration_s, {"mine": np.array(values)})
    return labels_of_segments(windows, np.array(segments), 60.0)["label_mine"]


def test_numbers_are_averaged_by_the_time_they_share():
    got = labels([1.0, 3.0, 5.0, NAN, 7.0, 9.0], [0, 30, 60, 90, 120, 150])
    np.testing.assert_allclose(got, [2.0, 5.0, 8.0])
    np.testing.assert_allclose(labels([1.0, 4.0], [-40, 20], duration_s=60.0, segments=(0.0,)), [(20 + 4 * 40) / 60])


def test_a_class_is_the_one_that_lasts_longest():
    got = labels(["wake", "rem", "rem", "", "deep", "wake"], [0, 10, 40, 60, 120, 155], duration_s=30.0)
    assert got.tolist() == ["rem", "", "deep"]
    assert labels(["a", "b", "b"], [0, 25, 45], duration_s=20.0, segments=(0.0,)).tolist() == ["b"]


def test_windows_that_cover_less_than_half_leave_it_unknown():
    assert np.isnan(labels([1.0], [0], duration_s=29.0, segments=(0.0,))).all()
    assert labels([1.0], [0], duration_s=30.0, segments=(0.0,)).tolist() == [1.0]
    assert np.isnan(labels([1.0], [500])).all()


def test_a_moment_in_several_windows_counts_once():
    starts = np.concatenate([60 * minute + np.arange(0, 8, 2.0) for minute in range(3)])  # 14 s of each minute
    assert np.isnan(labels(np.ones(12), starts, duration_s=8.0)).all()
    assert labels(np.array(["a"] * 12), starts, duration_s=8.0).tolist() == [""] * 3
    starts = np.arange(0, 24, 2.0)  # 30 s
    np.testing.assert_array_equal(labels(np.ones(12), starts, duration_s=8.0), [1, NAN, NAN])


def test_no_windows_give_no_columns():
    assert labels_of_segments(None, np.zeros(3), 60.0) == {}


def test_windows_that_label_no_segment_are_counted():
    values = {"mine": np.array([1.0, 2.0, NAN, 4.0, 5.0]), "sleep": np.array(["", "rem", "rem", "rem", ""])}
    windows = LabelWindows(np.array([0.0, 10, 60, 130, 900]), 20.0, values)
    note = too_short_labels(windows, np.array([0.0, 60, 120]), 60.0)["short_labels"]
    assert note.startswith(
        "1 of 4 windows of 'mine' (the first at 130 s) and 3 of 3 windows of 'sleep' (the first at 10 s) label no"
    )
    enough = LabelWindows(np.arange(0.0, 180, 30), 30.0, {"mine": np.ones(6)})
    assert too_short_labels(enough, np.array([0.0, 60, 120]), 60.0) == too_short_labels(None, np.zeros(1), 60.0) == {}
