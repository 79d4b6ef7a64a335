"""Ways of training, one file each; what they have in common is in `base`."""

from accdistill_jax.objectives.base import TARGET, Objective, embedding_health
from accdistill_jax.objectives.contrastive import SECOND, contrastive
from accdistill_jax.objectives.distillation import TEACHER, distillation, standard_embedding
from accdistill_jax.objectives.joint import joint_training
from accdistill_jax.objectives.masked import masked_autoencoding
from accdistill_jax.objectives.supervised import LABEL, supervised

__all__ = [
    "LABEL",
    "SECOND",
    "TARGET",
    "TEACHER",
    "Objective",
    "contrastive",
    "distillation",
    "embedding_health",
    "joint_training",
    "masked_autoencoding",
    "standard_embedding",
    "supervised",
]
