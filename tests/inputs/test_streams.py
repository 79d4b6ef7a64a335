"""Stream numbers: distinct keys, fixed numbers, collisions refused."""

import jax
import numpy as np
import pytest

from accdistill_jax.inputs import streams
from accdistill_jax.inputs.streams import Streams, stream


def test_the_numbers_are_those_of_earlier_runs():
    """Another number would change the randomness of every run that continues."""
    numbers = (streams.MASK, streams.PPG, streams.ACCEL, streams.TOKENS, streams.TEACHER_VIEWS, streams.SECOND_VIEW)
    assert numbers == (0, 1, 2, 3, 4, 5)
    assert streams.MODALITY_STREAMS == {"ppg": 1, "accel": 2}


def test_a_number_in_use_is_refused_with_its_user_and_a_free_number():
    table = Streams("dice")
    assert table.register("first throw", 3) == 3
    with pytest.raises(ValueError, match="dice: stream 3 of 'second throw' belongs to 'first throw'; take 4"):
        table.register("second throw", 3)
    assert table.register("second throw", 4) == 4
    with pytest.raises(ValueError, match="stream 5 of 'new' belongs to 'second view of a segment'; take 6"):
        streams.SEGMENT_STREAMS.register("new", 5)


@pytest.mark.parametrize("number", [-1, 2**31])
def test_a_number_that_cannot_be_folded_in_is_refused(number):
    with pytest.raises(ValueError, match=f"stream {number} of 'far' must be an integer from 0 to 2147483647"):
        Streams("dice").register("far", number)


def test_streams_give_independent_keys_per_segment():
    keys = jax.random.split(jax.random.key(0), 4)
    data = np.stack([jax.random.key_data(stream(keys, number)) for number in range(6)])
    assert len(np.unique(data.reshape(-1, data.shape[-1]), axis=0)) == 6 * 4
