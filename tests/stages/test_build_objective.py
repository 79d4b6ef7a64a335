"""Objectives built from a config by name, and a further one by its registration alone."""

import ast
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from accdistill_jax.config.registry import ENCODERS, OBJECTIVES, Registry
from accdistill_jax.errors import UserError
from accdistill_jax.inputs.prepare import InputSettings
from accdistill_jax.models.build import build_encoder
from accdistill_jax.objectives.base import Branch, Objective, ObjectiveParts, Segments
from accdistill_jax.objectives.registered import PPG, RegisteredObjective
from accdistill_jax.stages import build_objective as stage
from accdistill_jax.stages.build_objective import build_objective, needs_teacher
from tests import layout

SAMPLES = 3840


def make_batch(rows=2):
    batch, rng = {"position": np.arange(rows, dtype=np.int32), "label": np.full(rows, 70, np.float32)}, np.random
    for name, channels in (("ppg", 2), ("accel", 3), ("second_ppg", 2), ("second_accel", 3)):
        batch[name] = rng.default_rng(channels).integers(-900, 900, (rows, SAMPLES, channels)).astype(np.int16)
        batch[f"{name}_scale"] = np.full((rows, channels), 1e-3, np.float32)
        batch[f"{name}_offset"] = np.zeros((rows, channels), np.float32)
    return batch


def teacher_branch(config):
    return Branch("ppg", build_encoder(config.teacher.encoder, dtype=jnp.dtype("float32")), InputSettings())


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_every_objective_of_a_role_is_built_and_initialises_the_exported_encoder(role, smoke_config):
    for name in OBJECTIVES.names(role):
        config = smoke_config(**{f"{role}.objective": name})
        teacher = teacher_branch(config) if role == "student" and needs_teacher(config) else None
        objective = build_objective(config, role, samples=SAMPLES, teacher=teacher)
        assert isinstance(objective, Objective) and isinstance(objective, OBJECTIVES.get(name).load())
        params = jax.eval_shape(objective.init, jax.random.key(0), make_batch())
        assert "encoder" in params


def test_a_shift_belongs_to_both_branches_of_the_student_stage_and_is_shorter_than_a_segment(smoke_config):
    config = smoke_config(**{"student.augment.shared_shift": 32})
    objective = build_objective(config, "student", samples=SAMPLES, teacher=teacher_branch(config))
    assert objective.student.shift == objective.teacher.shift == 32
    assert build_objective(config, "teacher", samples=SAMPLES).branch.shift == 0
    with pytest.raises(UserError, match="shared_shift = 32: a segment has 32 samples"):
        build_objective(config, "student", samples=32, teacher=teacher_branch(config))


@pytest.mark.parametrize(
    ("heads", "message"), [(4, "each head needs an even number"), (5, "the width must be a multiple of the heads")]
)
def test_heads_of_a_decoder_that_cannot_have_relative_positions_are_refused(heads, message, smoke_config):
    sizes = {"teacher.autoencoder.decoder_width": 12, "teacher.autoencoder.decoder_heads": heads}
    config = smoke_config(**{"teacher.encoder.transformer.positions": "relative"} | sizes)
    with pytest.raises(UserError, match=f"decoder_width = 12 over autoencoder.decoder_heads = {heads}: .*{message}"):
        build_objective(config, "teacher", samples=SAMPLES)


@pytest.mark.parametrize("objective", ["distillation", "joint"])
def test_harder_negatives_are_the_objectives_batches(objective, smoke_config):
    plain = {"student.token_weight": 0.0, "student.token_schedule": "constant", "student.objective": objective}
    for size, key in ((1, "same_person"), (4, "same_person"), (4, "same_rate")):
        config = smoke_config(**plain | {f"student.contrast.{key}": size})
        teacher = teacher_branch(config) if needs_teacher(config) else None
        built = build_objective(config, "student", samples=SAMPLES, teacher=teacher)
        assert built.batches == Segments(**{key: size})


def test_only_distillation_of_the_built_in_ones_needs_a_teacher(smoke_config):
    needing = [name for name in OBJECTIVES.names() if OBJECTIVES.get(name).ppg is PPG.FROZEN]
    assert needing == ["distillation"]
    with pytest.raises(ValueError, match="needs a teacher"):
        build_objective(smoke_config(), "student", samples=SAMPLES)


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_loss_on_tokens_trains_an_encoder_without_an_output_layer(role, smoke_config):
    """The output layer would have no gradient, and a teacher's export would lack its parameters."""
    config = smoke_config(**{f"{role}.objective": "masked", f"{role}.encoder.transformer.output": 24})
    objective = build_objective(config, role, samples=SAMPLES)
    params = jax.eval_shape(objective.init, jax.random.key(0), make_batch())
    assert "projection" not in params["encoder"]
    trained = build_encoder(
        stage.trained_encoder(getattr(config, role)),
        dtype=jnp.dtype("float32"),
    )
    assert trained.embedding_width == 32


WINDOWED = {
    "distillation": "student.head.windows",
    "joint": "student.head.windows",
    "contrastive": "student.contrastive.head.windows",
}


@pytest.mark.parametrize("name", WINDOWED)
def test_heads_on_windows_train_an_encoder_without_an_output_layer(name, smoke_config):
    changes = {"student.objective": name, WINDOWED[name]: 12}
    assert stage.trained_encoder(smoke_config(**changes).student).chosen.output == 0
    assert stage.trained_encoder(smoke_config(**changes | {WINDOWED[name]: 1}).student).chosen.output == 32


def test_a_regression_of_the_embedding_keeps_the_output_layer(smoke_config):
    config = smoke_config(**{"student.head.windows": 12, "student.regression_weight": 1.0})
    assert stage.trained_encoder(config.student).chosen.output == 32


def test_windows_without_a_contrastive_loss_are_refused(smoke_config):
    changes = {"student.head.windows": 12, "student.contrastive_weight": 0.0, "student.regression_weight": 1.0}
    with pytest.raises(UserError, match="head.windows = 12 is for the contrastive loss"):
        smoke_config(**changes)


def test_dropping_the_only_token_of_a_segment_is_refused(smoke_config):
    config = smoke_config(**{"student.drop_fraction": 0.5})
    with pytest.raises(UserError, match="student.drop_fraction = 0.5: a segment of 64 samples has a single token"):
        build_objective(config, "student", samples=64, teacher=teacher_branch(config))


@dataclasses.dataclass(frozen=True)
class MeanSquare(Objective):
    """A further objective: the mean square of the embedding."""

    branch: Branch

    @classmethod
    def from_config(cls, section, parts: ObjectiveParts):
        return cls(parts.branch)

    def init(self, key, batch):
        return {"encoder": self.branch.encoder.init(key, self.branch.prepare(batch))["params"]}

    def inputs(self, frozen, batch, keys, *, training):
        return {"x": self.branch.present(batch, keys, training=training)}

    def rows(self, params, inputs):
        return {"square": jnp.mean(jnp.square(self.branch.embed(params["encoder"], inputs["x"])), axis=1)}

    def reduce(self, rows, axis_name, *, training):
        value = jnp.mean(rows["square"])
        return value, {"loss": value}


@pytest.mark.slow
def test_a_further_objective_needs_its_class_and_its_registration_alone(smoke_config, monkeypatch):
    registry = Registry("objective")
    registry.register("masked", OBJECTIVES.get("masked"))
    registry.register("distillation", RegisteredObjective(MeanSquare))  # under a name that the config accepts
    monkeypatch.setattr(stage, "OBJECTIVES", registry)
    config, batch = smoke_config(), make_batch()
    assert not needs_teacher(config)
    objective = build_objective(config, "student", samples=SAMPLES)
    assert isinstance(objective, MeanSquare)
    params = objective.init(jax.random.key(0), batch)
    keys = jax.random.split(jax.random.key(1), 2)
    loss, metrics = jax.jit(lambda p: objective.loss(p, {}, batch, keys, None))(params)
    assert np.isfinite(loss) and set(metrics) == {"loss"} and objective.exported(params, {}) == params
    represented = MeanSquare.represent(objective.branch, params, batch)
    assert {name: value.shape for name, value in represented.items()} == {"embedding": (2, 32)}


def _asks_a_mapping(node):
    """True for `"name" in mapping`, where the name is a key of a record or a tree of parameters."""
    collection = isinstance(node.comparators[0], ast.Tuple | ast.List | ast.Set)
    return isinstance(node.ops[0], ast.In) and not collection


def test_no_name_of_an_objective_or_architecture_is_compared_in_the_package():
    """Facts of an objective or encoder come from its registration, so that a further one needs no other file."""
    names = set(OBJECTIVES.names()) | set(ENCODERS.names())
    found = []
    for path in layout.modules().values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare) and not _asks_a_mapping(node):
                for part in ast.walk(node):
                    if isinstance(part, ast.Constant) and part.value in names:
                        found.append(f"{path}:{node.lineno}: {part.value}")
    assert not found
