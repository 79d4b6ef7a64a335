import functools
import importlib
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accdistill_jax.config import duration, schema
from accdistill_jax.config import record as config_record
from accdistill_jax.config import validate as configs
from accdistill_jax.errors import UserError

CONFIG_FILES = sorted(path.stem for path in (Path(__file__).parents[2] / "configs").glob("*.py"))
PRESETS = [
    (name, preset)
    for name in CONFIG_FILES
    for preset in getattr(importlib.import_module(f"configs.{name}"), "PRESETS", ())
]


def make(name="distill", preset="smoke"):
    return importlib.import_module(f"configs.{name}").get_config(preset)


def changed(key, value):
    config = make().unlock()
    with config.ignore_type():
        config.update_from_flattened_dict({key: value})
    return config.lock()


def test_there_are_presets_to_test():
    assert ("distill", "default") in PRESETS and len(PRESETS) >= 3


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_every_preset_is_valid(name, preset):
    configs.validate(make(name, preset))


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_every_key_has_a_rule(name, preset):
    missing = [key for key in configs.flatten(make(name, preset)) if schema.find_rule(key) is None]
    assert not missing, f"give these keys a rule in config/schema.py: {missing}"


def test_every_rule_has_a_key():
    """A rule that no key reaches is dead, or its key was renamed."""
    keys = {key for name, preset in PRESETS for key in configs.flatten(make(name, preset))}
    used = {schema.find_rule(key) for key in keys}
    assert [pattern for pattern, rule in schema.RULES if rule not in used] == []


@pytest.mark.parametrize("pattern", schema.FREE_KEYS)
def test_every_free_key_exists(pattern):
    assert any(schema.matches(key, pattern) for key in configs.flatten(make()))


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
        ("data.weights", (1.0, 2.0), "config.data.weights has 2 items and config.data.stores 0"),
        ("student.augment.ppg.cut_out.probability", 1.5, "at most 1"),
        ("teacher.encoder.transformer.heads", 3, "must be a multiple of config.teacher.encoder.transformer.heads"),
        ("student.encoder.efficientnet.stages", ((1, 2),), "(width, depth, stride, kernel, expansion)"),
        ("student.train.lerning_rate", 1.0, "did you mean config.student.train.learning_rate?"),
        ("sead", 1, "unknown key config.sead; did you mean config.seed?"),
    ],
)
def test_message_names_key_and_nearest_valid(key, value, message):
    with pytest.raises(UserError) as caught:
        configs.validate(changed(key, value))
    text = str(caught.value)
    assert message in text and f"config.{key}" in text and "\n" not in text


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("600 steps", 600),
        ("1 step", 1),
        ("80_000 examples", 2500),
        ("33 examples", 2),
        ("3 epochs", 300),
        ("0.5 epochs", 50),
        ("0 steps", 0),
    ],
)
def test_duration(text, steps):
    assert duration.duration_steps(text, batch_size=32, num_segments=3200) == steps


@given(st.integers(1, 1000), st.integers(1, 4096), st.integers(1, 10**6))
def test_duration_in_epochs_is_the_same_in_examples(epochs, batch_size, num_segments):
    sizes = dict(batch_size=batch_size, num_segments=num_segments)
    steps = duration.duration_steps(f"{epochs} epochs", **sizes)
    assert steps == duration.duration_steps(f"{epochs * num_segments} examples", **sizes)
    assert (steps - 1) * batch_size < epochs * num_segments <= steps * batch_size


@pytest.mark.parametrize("text", ["", "600", "six steps", "-1 steps", "3 hours", "1e3 steps"])
def test_no_duration(text):
    with pytest.raises(UserError, match="duration"):
        duration.duration_steps(text, batch_size=32, num_segments=10)


def test_epochs_need_data():
    with pytest.raises(UserError, match="epochs"):
        duration.duration_steps("3 epochs", batch_size=32, num_segments=None)


def test_dump_and_load(tmp_path):
    config = make()
    path = config_record.dump(config, tmp_path / "run")
    assert config_record.load(tmp_path / "run").to_dict() == config_record.load(path).to_dict() == config.to_dict()
    environment = json.loads(path.read_text())["environment"]
    assert environment["versions"].keys() >= {
        "accdistill_jax",
        "jax",
        "flax",
        "optax",
        "orbax-checkpoint",
        "grain",
    }
    assert environment["device_count"] == 4 and environment["device_kind"] and environment["python"]


def test_same_config_continues_and_free_keys_may_change(tmp_path):
    config_record.dump(make(), tmp_path)
    config_record.dump(make(), tmp_path)
    other = changed("runtime.mapping", "pmap")
    config_record.dump(other, tmp_path)
    assert config_record.load(tmp_path).runtime.mapping == "pmap"
    assert config_record.config_hash(other) == config_record.config_hash(make())


def test_other_config_is_refused_and_its_keys_named(tmp_path):
    path = config_record.dump(make(), tmp_path)
    before = path.read_bytes()
    other = changed("student.temperature", 0.5)
    with pytest.raises(UserError, match=r"another config: student.temperature \(was [0-9.]+, now 0.5\)") as caught:
        config_record.dump(other, tmp_path)
    assert str(tmp_path) in str(caught.value) and path.read_bytes() == before
    assert config_record.config_hash(other) != config_record.config_hash(make())


OTHERWISE = {
    "objective": "contrastive",
    "contrastive_weight": 0.5,
    "regression": "mse",
    "rate_share": 0.5,
    "residual": "compute",
    "optimizer": "muon",
}


@pytest.mark.parametrize("key", schema.LATER_KEYS)
def test_a_run_begun_before_a_key_was_there_goes_on_unless_it_is_set(tmp_path, key):
    path = config_record.dump(make(), tmp_path)
    record = json.loads(path.read_text())
    *sections, name = key.split(".")
    section = functools.reduce(dict.__getitem__, sections, record["config"])
    assert section.pop(name) == schema.LATER_KEYS[key]
    path.write_text(json.dumps(record))
    assert config_record.config_hash(config_record.load(path)) == config_record.config_hash(make())
    config_record.dump(make(), tmp_path)
    with pytest.raises(UserError, match=f"another config: {key} "):
        config_record.dump(changed(key, OTHERWISE.get(key.rsplit(".", 1)[-1], 1)), tmp_path)


def test_what_has_no_tokens_drops_none():
    config = changed("student.encoder.architecture", "efficientnet").unlock()
    configs.validate(config)
    config.student.drop_fraction = 0.5
    with pytest.raises(UserError, match=r"config.student.drop_fraction = 0.5 needs tokens .* 'efficientnet' has none"):
        configs.validate(config)


def test_several_views_need_an_augmentation():
    config = changed("teacher.cached_views", 2).unlock()
    configs.validate(config)
    for one in config.student.augment.ppg.values():
        one.probability = 0.0
    with pytest.raises(UserError, match=r"config.teacher.cached_views = 2: .*set it to 1"):
        configs.validate(config)


def test_a_claimed_folder_is_compared_and_left_as_it_is(tmp_path):
    config_record.claim(make(), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text() + " ")
    before = path.read_bytes()
    config_record.claim(make(), tmp_path)
    assert path.read_bytes() == before
    with pytest.raises(UserError, match="belongs to a run with another config"):
        config_record.claim(changed("seed", 5), tmp_path)
    assert path.read_bytes() == before


def test_unreadable_dump_is_named(tmp_path):
    path = config_record.dump(make(), tmp_path)
    path.write_text(path.read_text()[:40])
    for action in (lambda: config_record.load(tmp_path), lambda: config_record.dump(make(), tmp_path)):
        with pytest.raises(UserError, match="config.json cannot be read"):
            action()


def test_workdir_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file/run/config\.json"):
        config_record.dump(make(), tmp_path / "file" / "run")


def test_configs_import_no_jax():
    """A config is data: reading one must be instant."""
    program = "import sys; from configs import distill; distill.get_config(); sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2]).returncode == 0


@pytest.mark.parametrize(
    "key",
    [
        "seed",
        "student",
        "inputs.accel",
        "teacher.train.keep",
        "student.augment.ppg",
        "runtime",
        "teacher.encoder.transformer",
    ],
)
def test_what_is_missing_is_named(key):
    config = make().unlock()
    *sections, last = key.split(".")
    section = config
    for name in sections:
        section = section[name]
    del section[last]
    with pytest.raises(UserError, match=rf"config\.{key}[.\w]* is missing; begin with a copy of configs/distill.py"):
        configs.validate(config.lock())


def test_a_config_without_a_student_needs_none_of_its_keys():
    config = make().unlock()
    config.stages = ("data", "teacher", "evaluation", "report")
    del config.student
    configs.validate(config.lock())


def test_more_steps_than_can_be_counted_are_refused():
    with pytest.raises(UserError, match=r"'2147483648 steps' is 2147483648 steps"):
        duration.duration_steps("2147483648 steps", batch_size=1, num_segments=None)


def test_settings_of_an_objective_that_is_not_used_do_not_bind(tmp_path):
    config_record.dump(make(), tmp_path)
    other = changed("student.supervised.label_fraction", 0.5)
    assert config_record.config_hash(other) == config_record.config_hash(make())
    config_record.dump(other, tmp_path)
    supervised = changed("student.objective", "supervised").unlock()
    before = config_record.config_hash(supervised)
    supervised.student.supervised.label_fraction = 0.5
    assert config_record.config_hash(supervised) != before


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
        ({"student.objective": "distilation"}, "did you mean distillation"),
        ({"student.supervised.label_fraction": 0.0}, "a number above 0 and at most 1"),
        ({"inputs.accel.rate_share": 1.5}, "a number of at least 0.01 and at most 1"),
    ],
)
def test_objectives_that_do_not_go_with_other_keys_are_refused(changes, message):
    config = make().unlock()
    with config.ignore_type():
        config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=message):
        configs.validate(config)
