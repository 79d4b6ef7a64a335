"""Values that a config refuses, each in one line that names the key and the nearest valid one."""

import math

import pytest

from accdistill_jax.config.convert import changed
from accdistill_jax.config.load import load_config
from accdistill_jax.errors import UserError

WITHOUT_TOKENS = {"student.token_weight": 0.0, "student.token_schedule": "constant"}


def make(**changes):
    return changed(load_config("distill:smoke"), changes)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("seed", -1, "config.seed = -1 must be a whole number of at least 0"),
        ("seed", True, "config.seed = True must be a whole number"),
        ("student.drop_fraction", 1.0, "a number of at least 0 and at most 0.95"),
        ("teacher.cached_views", -1, "a whole number of at least 0 and at most 1024"),
        ("student.temperature", 0.0, "config.student.temperature = 0.0 must be a number above 0"),
        ("student.temperature", math.nan, "config.student.temperature = nan must be a number above 0"),
        ("teacher.train.learning_rate", "fast", "config.teacher.train.learning_rate = 'fast' must be a number"),
        ("teacher.train.b2", 1.0, "config.teacher.train.b2 = 1.0 must be"),
        ("teacher.train.duration", "6 stepps", "a duration such as '600 steps'"),
        ("teacher.train.duration", f"{10**40} steps", "a duration such as '600 steps'"),
        ("teacher.train.duration", "0 steps", "must be longer than zero"),
        ("teacher.train.warmup", "6 steps", "must be shorter than config.teacher.train.duration = '6 steps'"),
        ("runtime.mapping", "pmapp", "must be one of shard_map, pmap; did you mean pmap?"),
        ("runtime.compute_dtype", "bf16", "did you mean bfloat16?"),
        ("stages", ("data", "studnet"), "did you mean student?"),
        ("stages", ("student", "data"), "must be in the order data, teacher"),
        ("stages", ("data", "data"), "each at most once"),
        ("stages", (), "a tuple of at least 1"),
        ("data.synthetic.participants", 10**9, "at most 1000000"),
        (
            "student.encoder.transformer.tokenizer",
            ((7, 32),),
            "must divide those of the next, and the last config.student",
        ),
        ("student.encoder.transformer.stem", ((8, 4, 4),), "replaces the tokenizer: set config.student.encoder"),
        ("teacher.encoder.transformer.stem", ((8, 4, 3),), "the product of the strides must divide config.teacher"),
        ("teacher.encoder.transformer.stem", ((8, 2, 4),), "a kernel shorter than its stride would skip samples"),
        ("data.weights", (1.0, 2.0), "config.data.weights has 2 items and config.data.stores 0"),
        ("student.augment.ppg.cut_out.probability", 1.5, "at most 1"),
        ("teacher.encoder.transformer.heads", 3, "must be a multiple of config.teacher.encoder.transformer.heads"),
        ("teacher.encoder.transformer.heads", 32, "turns pairs of a head's features, and config.teacher.encoder"),
        ("student.encoder.efficientnet.stages", ((1, 2),), "(width, depth, stride, kernel, expansion)"),
        ("student.train.lerning_rate", 1.0, "did you mean config.student.train.learning_rate?"),
        ("sead", 1, "unknown key config.sead; did you mean config.seed?"),
        ("student.encoder.architecture", "transformr", "did you mean transformer?"),
        ("teacher.objective", "supervised", "must be one of masked, contrastive"),
        (
            "teacher.source",
            ("t.npz",),
            "one vector for a minute, so the student cannot learn windows and tokens: take a preset",
        ),
        ("teacher.source", ("t.npz", "ppg"), "name 'ppg' once, as the first"),
        ("teacher.source", ("ppg", "t.npz", "t.npz"), "a table is named twice"),
        ("teacher.source", (), "a tuple of at least 1"),
        ("teacher.source_weights", (1.0, 2.0), "has 2 items and config.teacher.source 1: give one each"),
    ],
)
def test_message_names_key_and_nearest_valid(key, value, message):
    with pytest.raises(UserError) as caught:
        make(**{key: value})
    text = str(caught.value)
    assert message in text and f"config.{key}" in text and "\n" not in text


def test_caps_and_cached_views_do_not_go_with_a_table():
    changes = {"teacher.source": ("ppg", "t.npz"), "teacher.cached_views": 1}
    make(**changes)
    with pytest.raises(UserError, match="config.teacher.cached_views = 1: views are kept of other minutes"):
        make(**changes | {"data.participant_cap": 5})


@pytest.mark.parametrize(("key", "value"), [("teacher.path", "runs/x/teacher/export"), ("teacher.cached_views", 1)])
def test_what_a_table_cannot_use_is_refused(key, value):
    changes = {"teacher.source": ("t.npz",), "student.head.windows": 1, "student.token_weight": 0.0}
    make(**changes)
    with pytest.raises(UserError, match=f"config.{key} = .* is for a PPG encoder, and config.teacher.source = "):
        make(**changes | {key: value})


def test_an_encoder_without_tokens_drops_none():
    efficientnet = {"student.encoder.architecture": "efficientnet"}
    make(**efficientnet)
    with pytest.raises(UserError, match=r"config.student.drop_fraction = 0.5 needs tokens .* 'efficientnet' has none"):
        make(**efficientnet, **{"student.drop_fraction": 0.5})


def test_cached_views_do_not_go_with_a_shift_that_the_student_shares():
    make(**{"student.augment.shared_shift": 32})
    with pytest.raises(UserError, match=r"cached_views = 1: the views .*shared_shift = 32\); set one of them to 0"):
        make(**{"student.augment.shared_shift": 32, "teacher.cached_views": 1})


def test_several_views_need_an_augmentation():
    config = make(**{"teacher.cached_views": 2})
    off = {f"student.augment.ppg.{name}.probability": 0.0 for name in config.student.augment.ppg}
    with pytest.raises(UserError, match=r"config.teacher.cached_views = 2: .*set it to 1"):
        changed(config, off)


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"student.contrastive_weight": 0.0}, "are both 0: nothing would be learned"),
        (
            {"student.objective": "masked", "student.drop_fraction": 0.5},
            "student.drop_fraction = 0.5 is for distillation alone",
        ),
        (
            {"student.objective": "joint", "teacher.cached_views": 2},
            "teacher.cached_views = 2 is for distillation alone",
        ),
        (
            {"teacher.objective": "contrastive", "teacher.train.ema_decay": 0.9},
            "teacher.train.ema_decay = 0.9: the contrastive",
        ),
        (
            {"student.objective": "supervised"},
            "student.token_weight = 10.0 is for distillation alone; set it to 0.0 with",
        ),
        (
            {"student.objective": "supervised"} | WITHOUT_TOKENS,
            "student.head.windows = 60 is for distillation and joint alone; set it to 1 with config.student.objective = 'sup",
        ),
        (
            {"student.objective": "joint", "student.token_weight": 0.0, "student.token_schedule": "linear"},
            "student.token_schedule = 'linear' is for distil",
        ),
        (
            {"student.objective": "masked"}
            | WITHOUT_TOKENS
            | {"student.head.windows": 1, "student.head.weighting": "equal", "student.contrast.bias": -3.0},
            "student.contrast.bias = -3.0 is for distillation and joint alone; set it to -10.0 with",
        ),
        ({"student.contrast.temperature_bounds": (0.1,)}, r"= \(0.1,\) must be two numbers, the smaller one first"),
        ({"student.contrast.temperature_bounds": (0.2, 0.1)}, "must be two numbers, the smaller one first"),
        (
            {"student.contrast.temperature_bounds": (0.1, 1.0)},
            "must include the start, config.student.temperature = 0.07",
        ),
        ({"student.contrast.same_person": 17}, "= 17: a batch has config.student.train.batch_size = 16 minutes"),
        ({"student.contrast.same_rate": 17}, "= 17: a batch has config.student.train.batch_size = 16 minutes"),
        (
            {"student.contrast.same_rate": 4, "student.contrast.same_person": 4},
            "same_person = 4 and same_rate = 4: minutes stand together by one of them; set the other to 1",
        ),
        ({"student.contrast.bias": -3.0}, "bias = -3.0 is for the sigmoid loss alone; set it to -10.0"),
        (
            {"student.contrast.loss": "sigmoid", "student.teacher_to_student_weight": 1.0},
            "= 1.0 weighs two directions, and config.student.contrast.loss = 'sigmoid' has none: set it to 0.5",
        ),
        (
            {"student.objective": "joint", "student.contrast.temperature_bounds": (0.1, 1.0)} | WITHOUT_TOKENS,
            "must include the start",
        ),
        (
            {
                "student.contrastive_weight": 0.0,
                "student.regression_weight": 1.0,
                "student.head.windows": 1,
                "student.contrast.loss": "sigmoid",
            },
            "config.student.contrast is for the contrastive loss",
        ),
        ({"student.objective": "distilation"}, "did you mean distillation"),
        ({"student.supervised.label_fraction": 0.0}, "a number above 0 and at most 1"),
        ({"inputs.accel.rate_share": 1.5}, "a number of at least 0.01 and at most 1"),
    ],
)
def test_objectives_that_do_not_go_with_other_keys_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        make(**changes)
