"""The built-in optimisers with their options; imports no jax."""

import dataclasses

from accdistill_jax.config.fields import below_one, integer, setting
from accdistill_jax.config.registry import OPTIMIZERS


@dataclasses.dataclass(frozen=True)
class MuonOptions:
    """Options of Muon; b1 and b2 of the `train` section are for the parameters that it leaves to Adam."""

    momentum: float = setting(0.95, below_one(), "decay per step of the average of the gradient")
    newton_schulz_steps: int = setting(5, integer(1, 20), "iterations that orthogonalise an update")


OPTIMIZERS.register("adamw", "accdistill_jax.training.optimizer:adam")
OPTIMIZERS.register("muon", "accdistill_jax.training.muon:muon", options=MuonOptions)
