"""The compiled program of an encoder: few batch sizes, and compilation while other work is done."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import numpy as np

from accdistill_jax.api.segments import example_batch
from accdistill_jax.api.signals import InputContract
from accdistill_jax.objectives.base import Branch

Result = TypeVar("Result")
FEW = 8  # segments of the smaller one of two batch sizes: each size is compiled


class EncoderProgram:
    """Embeds batches of segments.

    Args:
        branch: way of a batch to its embedding.
        params: the encoder's parameters.
        contract: the signal that the encoder reads.
    """

    def __init__(self, branch: Branch, params: Any, contract: InputContract):
        def apply(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
            return branch.represent(branch.encode(params, branch.prepare(batch)))

        self._apply, self._params, self._contract = jax.jit(apply), params, contract
        self._has_compiled = False

    def embed(self, batch: Mapping[str, np.ndarray], *, batch_size: int, embedding_size: int) -> np.ndarray:
        """Embeds all segments of a batch.

        Args:
            batch: from `segment_batch`.
            batch_size: most segments computed at once.
            embedding_size: length of an embedding.

        Returns:
            Embeddings [n, embedding_size] float32.
        """
        count = len(batch[self._contract.modality])
        size = min(batch_size, FEW) if count <= FEW else batch_size
        embeddings = np.empty((count, embedding_size), np.float32)
        running = None
        for start in range(0, count, size):
            rows: Any = slice(start, start + size)
            if start + size > count:  # the last batch is filled with the last row
                rows = np.minimum(np.arange(start, start + size), count - 1)
            part = self._apply(self._params, {name: values[rows] for name, values in batch.items()})
            if running is not None:  # a batch is prepared while the one before is computed
                embeddings[start - size : start] = np.asarray(running)
            running = part
        if running is not None:
            embeddings[start:] = np.asarray(running)[: count - start]
        self._has_compiled = True
        return embeddings

    def compile_during(self, work: Callable[[], Result]) -> Result:
        """Does other work, and meanwhile compiles the program for a few segments, unless a program is compiled already."""
        if self._has_compiled:
            return work()
        with ThreadPoolExecutor(1) as pool:
            compiling = pool.submit(self._apply, self._params, example_batch(self._contract, FEW))
            result = work()
        compiling.result()
        return result
