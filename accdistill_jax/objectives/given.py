"""A branch whose embeddings are given by a table, in place of a signal and an encoder."""

import dataclasses

import chex
import jax

from accdistill_jax.config.schema import InputSettings
from accdistill_jax.models.given import GivenEmbedding
from accdistill_jax.models.protocol import Encoded
from accdistill_jax.objectives.base import Batch, Branch

GIVEN = "given"  # modality of such a branch, and prefix of the names of its arrays in a batch


@dataclasses.dataclass(frozen=True)
class GivenBranch(Branch):
    """A branch that reads vectors [b, D] from the batch; nothing is normalised or augmented.

    Attributes:
        array: name of the vectors in a batch.
    """

    array: str = f"{GIVEN}_0"

    def prepare(self, batch: Batch) -> jax.Array:
        """The vectors [b, D] float32."""
        chex.assert_rank(batch[self.array], 2)
        return batch[self.array]

    def present(self, batch: Batch, keys: jax.Array, *, training: bool) -> jax.Array:
        """The vectors [b, D] float32, the same in training."""
        return self.prepare(batch)

    def represent(self, encoded: Encoded) -> jax.Array:
        """The vectors [b, D]: statistics of a single token would say nothing."""
        return encoded.embedding


def given_branch(number: int, width: int) -> GivenBranch:
    """The branch of the table of a number, from 0, with vectors of a width."""
    return GivenBranch(GIVEN, GivenEmbedding(width), InputSettings(), array=f"{GIVEN}_{number}")
