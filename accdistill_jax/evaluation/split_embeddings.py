"""Output of an encoder on one split, as the evaluation reads it."""

import dataclasses
from collections.abc import Mapping

import numpy as np


@dataclasses.dataclass(frozen=True)
class SplitEmbeddings:
    """Output of one encoder on one split. Row i is the same segment for every encoder.

    Attributes:
        embedding: [N, D] float32, encoder output before the head; probes read it.
        projection: [N, P] float32, head output, L2-normalised; retrieval compares it. None without a head.
        participant: [N] str.
        labels: name -> [N] float32, NaN where unknown; some or all of `LABELS`.
        motion_g: [N] float32 motion level in g, or None.
        ppg_quality: [N] float32 quality index of the PPG, or None.
        device: [N] str, name of the device, or None.
        ranks: direction -> [N] int64 ranks in the pool of all N segments, if they were computed before; else {}.

    Raises:
        ValueError: arrays of different lengths.
    """

    embedding: np.ndarray
    projection: np.ndarray | None
    participant: np.ndarray
    labels: Mapping[str, np.ndarray]
    motion_g: np.ndarray | None = None
    ppg_quality: np.ndarray | None = None
    device: np.ndarray | None = None
    ranks: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        n = len(self.embedding)
        named = {"projection": self.projection, "participant": self.participant, **self.labels}
        named |= {f"ranks {direction}": ranks for direction, ranks in self.ranks.items()}
        named |= {"motion_g": self.motion_g, "ppg_quality": self.ppg_quality, "device": self.device}
        for name, array in named.items():
            if array is not None and len(array) != n:
                raise ValueError(f"{name} has {len(array)} rows, the embedding has {n}")
        if self.embedding.ndim != 2:
            raise ValueError(f"the embedding must be [segments, width], got shape {self.embedding.shape}")

    def __len__(self) -> int:
        return len(self.embedding)
