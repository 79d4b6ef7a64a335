"""Configs that come with the package: found by name from any folder."""

from pathlib import Path

import pytest

from accdistill_jax.config.load import config_file, default_workdir, load_config, shipped_configs
from accdistill_jax.errors import UserError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)


def test_the_shipped_configs_are_those_of_the_repository(repository):
    assert list(shipped_configs()) == ["distill", "pretrain", "reproduce", "shipped"]
    assert all(path.samefile(repository / "configs" / path.name) for path in shipped_configs().values())


def test_a_name_is_a_shipped_config():
    assert config_file("distill:smoke") == (shipped_configs()["distill"], "smoke")
    assert config_file("pretrain") == (shipped_configs()["pretrain"], "")
    assert load_config("distill:smoke", ["--config.seed=3"]).seed == 3
    assert default_workdir("distill:smoke") == str(Path("runs/distill-smoke"))


def test_a_name_equals_its_file(repository):
    by_name, by_path = (
        load_config(argument, []) for argument in ("distill:smoke", f"{repository}/configs/distill.py:smoke")
    )
    assert by_name == by_path


def test_a_file_of_the_user_is_found_by_its_path(tmp_path):
    Path("distill.py").write_text("from accdistill_jax.configs.distill import get_config as get_config\n")
    assert config_file("distill.py:smoke") == (Path("distill.py"), "smoke")
    assert load_config("distill.py:smoke", []).seed == load_config("distill:smoke", []).seed


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("distil:smoke", "no config distil comes with the package; did you mean distill?"),
        ("common", "no config common comes with the package; there are distill, pretrain, reproduce, shipped"),
        ("configs/distill.py", "no config file configs/distill.py; shipped: --config=distill"),
        ("distill:smok", "has no preset 'smok'"),
        ("distill:", "no preset after the colon"),
        ("configs/distill.py:", "no preset after the colon"),
    ],
)
def test_a_wrong_argument_is_named(argument, message):
    with pytest.raises(UserError, match=".*") as raised:
        load_config(argument, [])
    assert message in str(raised.value)
