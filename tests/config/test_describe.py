"""The documentation of the keys, made from the schema."""

import importlib

import pytest

from accdistill_jax.config import __main__ as command
from accdistill_jax.config import tree
from accdistill_jax.config.convert import known_keys, value_of
from accdistill_jax.config.describe import describe
from accdistill_jax.config.load import load_config, read_config, shipped_configs
from accdistill_jax.config.renamed import RENAMED, current_key, first_key
from accdistill_jax.config.schema import Config

PRESETS = [
    f"{name}:{preset}" for name in shipped_configs() for preset in importlib.import_module(f"configs.{name}").PRESETS
]


def test_there_are_presets_to_test():
    assert {"distill:default", "pretrain:paper", "reproduce:full"} <= set(PRESETS) and len(PRESETS) == 24


@pytest.mark.parametrize("preset", PRESETS)
def test_every_key_of_every_config_is_documented(preset):
    known = known_keys()
    listed = tree.flatten_section(read_config(preset))
    assert listed.keys() == known.keys()
    load_config(preset)
    for key in listed:
        assert 5 <= len(known[key].setting.doc) and "\n" not in known[key].setting.doc, key


def test_every_leaf_of_the_tree_is_a_key():
    """A field made without `setting` would be no key, and its value would never be checked."""
    assert tree.flatten_section(Config()).keys() == known_keys().keys()


@pytest.mark.parametrize("key", known_keys())
def test_every_default_keeps_its_rule(key):
    known = known_keys()[key]
    rule = known.setting.current_rule()
    assert rule.accepts(known.default) and not rule.accepts(None)
    assert rule.accepts(value_of(key, repr(known.default) if isinstance(known.default, tuple) else str(known.default)))


def test_every_renamed_key_exists():
    known = known_keys()
    for pattern in RENAMED:
        key = pattern.replace("*", "ppg")
        assert key not in known and current_key(key) in known and first_key(current_key(key)) == key


def test_all_keys_are_printed_with_default_rule_unit_and_text(capsys):
    assert command.main([]) == 0
    printed = capsys.readouterr().out
    for key, known in known_keys().items():
        assert f"\n{key} = {known.default!r}" in f"\n{printed}"
    words = " ".join(describe("runtime.hang_timeout_s").split())
    assert words == (
        "runtime.hang_timeout_s = 600.0 [s] Longest training step; after it, stacks are dumped and all processes stop; other "
        "waits get ten times as long. Must be a number of at least 1. May change when a run continues."
    )
    assert "Counts only with student.objective = 'supervised'." in describe("student.supervised.subset", width=200)


def test_a_prefix_limits_the_keys_and_a_config_adds_its_values(capsys):
    assert command.main(["config.student.train", "--config=distill:paper", "--config.student.train.b1=0.5"]) == 0
    printed = capsys.readouterr().out.splitlines()
    keys = [line.split(" = ")[0] for line in printed if not line.startswith(" ")]
    assert keys == [key for key in known_keys() if key.startswith("student.train.")]
    assert "    here: 0.5" in printed and "    here: '100 epochs'" in printed


def test_a_wrong_prefix_is_refused_with_the_nearest(capsys):
    assert command.main(["studnet.train"]) == 2
    assert capsys.readouterr().err == "error: no config key studnet.train; did you mean student.train?\n"
