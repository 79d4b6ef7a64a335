"""Every guide: the modules, files and links that it names exist."""

import importlib.util
import re

import pytest

from tests.guides import REPOSITORY, commands, guides

GUIDES = guides()
NAMES = [str(guide.relative_to(REPOSITORY)) for guide in GUIDES]


def test_there_are_guides():
    assert "accdistill_jax/data/README.md" in NAMES


@pytest.mark.parametrize("guide", GUIDES, ids=NAMES)
def test_modules_of_commands_exist(guide):
    modules = [words[2] for words in commands(guide) if words[:2] == ["python", "-m"]]
    assert [module for module in modules if importlib.util.find_spec(module) is None] == []


@pytest.mark.parametrize("guide", GUIDES, ids=NAMES)
def test_files_and_links_exist(guide):
    text = guide.read_text(encoding="utf-8")
    named = set(
        re.findall(r"(?<![\w/.-])((?:accdistill_jax|configs|tests|launch|\.ci)/[\w./-]+\.(?:py|md|toml|yml))\b", text)
    )
    made_by_the_reader = {"accdistill_jax/data/recordings/my_watch.py"}
    assert {name for name in named if not (REPOSITORY / name).exists()} <= made_by_the_reader
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("https://") or (guide.parent / link).exists(), link


@pytest.mark.parametrize("guide", GUIDES, ids=NAMES)
def test_nothing_is_left_to_fill_in(guide):
    assert re.findall(r"@@\w+@@|<FILL|TBD|TODO", guide.read_text(encoding="utf-8")) == []
