"""Streams of random keys: each use of randomness has a number that it folds into a segment's key."""

import itertools

import jax


class Streams:
    """A table of stream numbers. A number in use is refused, so that two uses never draw the same numbers.

    Args:
        kind: what the streams are for, in messages.
    """

    def __init__(self, kind: str):
        self._kind = kind
        self._users: dict[int, str] = {}

    def register(self, name: str, number: int) -> int:
        """Reserves a stream.

        Args:
            name: its use.
            number: folded into the key; a run repeats its randomness only while it stays the same.

        Returns:
            The number.

        Raises:
            ValueError: the number is taken, or it is no integer from 0 to 2^31 - 1.
        """
        if not 0 <= number < 2**31:
            raise ValueError(f"{self._kind}: stream {number} of {name!r} must be an integer from 0 to 2147483647")
        if number in self._users:
            taken, free = self._users[number], next(n for n in itertools.count(number) if n not in self._users)
            raise ValueError(f"{self._kind}: stream {number} of {name!r} belongs to {taken!r}; take {free}")
        self._users[number] = name
        return number


SEGMENT_STREAMS = Streams("random streams of a segment")

MASK = SEGMENT_STREAMS.register("order in which a masked autoencoder keeps and drops patches", 0)
PPG = SEGMENT_STREAMS.register("augmentation of the PPG", 1)
ACCEL = SEGMENT_STREAMS.register("augmentation of the acceleration", 2)
TOKENS = SEGMENT_STREAMS.register("tokens that a student drops", 3)
TEACHER_VIEWS = SEGMENT_STREAMS.register("views that a teacher embeds once", 4)
SECOND_VIEW = SEGMENT_STREAMS.register("second view of a segment", 5)
# far from the others, whose successors may be in use by extensions
SHIFT = SEGMENT_STREAMS.register("shift of a segment, alike for both sensors", 100)

MODALITY_STREAMS = {"ppg": PPG, "accel": ACCEL}


def stream(keys: jax.Array, number: int) -> jax.Array:
    """Independent keys for one use of randomness: [batch] keys -> [batch] keys."""
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
