"""Shapes that do not belong together are refused at the doors of every objective."""

import jax.numpy as jnp
import pytest

from accdistill_jax.inputs.prepare import InputSettings
from accdistill_jax.models.autoencoder import MaskedAutoencoder
from accdistill_jax.models.heads import LinearHead, ProjectionHead
from accdistill_jax.models.transformer import TransformerEncoder
from accdistill_jax.objectives.base import Branch, Labelled
from accdistill_jax.objectives.contrast import CrossModalContrast
from accdistill_jax.objectives.contrastive import Contrastive
from accdistill_jax.objectives.distillation import Distillation, DistillationLoss
from accdistill_jax.objectives.joint import JointTraining
from accdistill_jax.objectives.masked import MaskedAutoencoding
from accdistill_jax.objectives.supervised import Supervised

ENCODER = TransformerEncoder(patch=8, width=8, depth=0, heads=2, mlp=8)
ACCEL, PPG = (Branch(modality, ENCODER, InputSettings(), ProjectionHead(8, 4)) for modality in ("accel", "ppg"))
CONTRAST = CrossModalContrast(0.1, 0.5)
SIGNAL, PROJECTION, FEW = jnp.zeros((4, 32, 3)), jnp.zeros((4, 5)), jnp.zeros((3, 5))
OBJECTIVES = {
    "masked": MaskedAutoencoding(ACCEL, MaskedAutoencoder(ENCODER, 8, 2, 8, 0, 2)),
    "contrastive": Contrastive(ACCEL, "segment", 0.1, 0.0),
    "distillation": Distillation(ACCEL, PPG, DistillationLoss(CONTRAST)),
    "joint": JointTraining(ACCEL, PPG, CONTRAST),
    "supervised": Supervised(Branch("accel", ENCODER, InputSettings(), LinearHead(1)), Labelled("hr_bpm", 1.0, 0)),
}
INPUTS = {
    "masked": {"signal": SIGNAL[0], "order": jnp.zeros((4, 4), int)},
    "contrastive": {"first": SIGNAL[0], "second": SIGNAL},
    "distillation": {"accel": SIGNAL, "teacher": FEW},
    "joint": {"accel": SIGNAL, "ppg": SIGNAL[0]},
    "supervised": {"accel": SIGNAL, "target": PROJECTION},
}
ROWS = {
    "masked": {"error": jnp.zeros(()), "embedding": PROJECTION},
    "contrastive": {"query": PROJECTION, "key": FEW, "embedding": PROJECTION},
    "distillation": {"student": PROJECTION, "teacher": FEW, "embedding": PROJECTION},
    "joint": {"student": FEW, "teacher": PROJECTION, "embedding": PROJECTION, "ppg_embedding": PROJECTION},
    "supervised": {"loss": PROJECTION, "absolute": PROJECTION, "embedding": PROJECTION},
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_inputs_and_rows_of_wrong_shapes_are_refused(name):
    objective = OBJECTIVES[name]
    with pytest.raises(AssertionError, match="shape|rank"):
        objective.rows({}, INPUTS[name])
    with pytest.raises(AssertionError, match="shape|rank"):
        objective.reduce(ROWS[name], None, training=True)
