"""Durations in steps, examples and epochs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accdistill_jax.config import duration
from accdistill_jax.errors import UserError


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("600 steps", 600),
        ("1 step", 1),
        ("80_000 examples", 2500),
        ("33 examples", 2),
        ("3 epochs", 300),
        ("0.5 epochs", 50),
        ("0 steps", 0),
    ],
)
def test_duration(text, steps):
    assert duration.duration_steps(text, batch_size=32, num_segments=3200) == steps


@given(st.integers(1, 1000), st.integers(1, 4096), st.integers(1, 10**6))
def test_duration_in_epochs_is_the_same_in_examples(epochs, batch_size, num_segments):
    sizes = dict(batch_size=batch_size, num_segments=num_segments)
    steps = duration.duration_steps(f"{epochs} epochs", **sizes)
    assert steps == duration.duration_steps(f"{epochs * num_segments} examples", **sizes)
    assert (steps - 1) * batch_size < epochs * num_segments <= steps * batch_size


@pytest.mark.parametrize("text", ["", "600", "six steps", "-1 steps", "3 hours", "1e3 steps"])
def test_no_duration(text):
    with pytest.raises(UserError, match="duration"):
        duration.duration_steps(text, batch_size=32, num_segments=10)


def test_epochs_need_data():
    with pytest.raises(UserError, match="epochs"):
        duration.duration_steps("3 epochs", batch_size=32, num_segments=None)


def test_more_steps_than_can_be_counted_are_refused():
    with pytest.raises(UserError, match=r"'2147483648 steps' is 2147483648 steps"):
        duration.duration_steps("2147483648 steps", batch_size=1, num_segments=None)
