"""Every guide against the repository: its commands are taken, and the files, links, keys and presets that it names exist."""

import ast
import re
import shlex

import pytest
import yaml

from accdistill_jax.config.convert import known_keys
from accdistill_jax.config.load import load_config
from accdistill_jax.errors import UserError
from tests.guides import (
    LAUNCH,
    README,
    REPOSITORY,
    anchors,
    blocks,
    broken_links,
    check,
    commands,
    guides,
    kind_of,
    text_of,
    without_blocks,
)

GUIDES = guides()
NAMES = [str(guide.relative_to(REPOSITORY)) for guide in GUIDES]
COMMANDS = sorted({shlex.join(words) for guide in GUIDES if guide != LAUNCH for words in commands(guide)})
MAIN, PREPARE = ("python", "-m", "accdistill_jax.main"), ("python", "-m", "accdistill_jax.data.prepare")
REPRODUCE, CONFIG = ("python", "-m", "accdistill_jax.reproduce"), ("python", "-m", "accdistill_jax.config")
VENV, ACTIVATE, INSTALL = ("python3", "-m", "venv"), (".",), ("pip", "install")
# The kinds of commands in each guide: a guide that has lost its blocks, or a block of another language, is noticed.
MEASURED = {("python", "-m", f"accdistill_jax.reproduce.{name}") for name in ("wearers", "noise")}
KINDS = {
    "README.md": {
        VENV,
        ACTIVATE,
        INSTALL,
        MAIN,
        ("python", "-m", "pytest"),
        PREPARE,
        CONFIG,
        REPRODUCE,
        ("launch/local",),
        ("accdistill", "embed"),
        ("accdistill", "predict"),
        ("accdistill", "probe"),
    },
    "configs/README.md": {MAIN, CONFIG, ("accdistill", "benchmark"), ("accdistill", "embed-teacher")},
    "accdistill_jax/README.md": {
        ("accdistill", name) for name in ("train", "embed", "prepare", "reproduce", "mirror", "predict", "probe")
    }
    | {("accdistill",), ("python", "-m", "accdistill_jax.shipped")},
    "accdistill_jax/export/README.md": {
        INSTALL,
        ("accdistill", "benchmark"),
        ("accdistill", "export"),
        ("accdistill", "demo"),
        ("python", "-m", "http.server"),
    },
    "accdistill_jax/data/README.md": {PREPARE},
    "accdistill_jax/reproduce/README.md": {REPRODUCE, *MEASURED},
    "accdistill_jax/reproduce/results/README.md": {REPRODUCE, PREPARE, MAIN, *MEASURED},
    "accdistill_jax/benchmark/README.md": {("python", "-m", "accdistill_jax.benchmark")},
    ".github/CONTRIBUTING.md": {VENV, ACTIVATE, INSTALL, ("python", ".github/images/draw.py")}
    | {("python", "-m", f"tests.{name}") for name in ("chaos", "bad_inputs", "bad_inputs.damage")},
    "CHANGELOG.md": set(),
}
MADE_BY_THE_READER = {
    "accdistill_jax/data/recordings/my_watch.py",
    "accdistill_jax/models/mine.py",
    "accdistill_jax/objectives/mine.py",
    "measure/my_experiment.py",
    "mine.py",
}
OF_RECIPES = re.compile(r"\b(mine|lion)\b")


def test_the_guides_have_their_kinds_of_commands():
    assert set(NAMES) == KINDS.keys() | {"launch/README.md"}
    for guide, name in zip(GUIDES, NAMES, strict=True):
        if guide != LAUNCH:
            assert {kind_of(words) for words in commands(guide)} == KINDS[name], name


@pytest.mark.parametrize("guide", GUIDES, ids=NAMES)
def test_every_fence_is_closed(guide):
    fences = re.findall(r"^ *```", text_of(guide), re.MULTILINE)
    assert len(fences) % 2 == 0 and "```" not in without_blocks(guide)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_taken(command):
    check(shlex.split(command))


@pytest.mark.parametrize(
    "command",
    [
        "python -m accdistill_jax.main --config=configs/distill.py --confg=x",
        "python -m accdistill_jax.main --config=configs/distill.py:smok",
        "accdistill train --config=distill --config.student.tempertur=1",
        "python -m accdistill_jax.data.prepare generic folder --outt store",
        "accdistill reproduce --only retrieva",
        "python -m accdistill_jax.benchmark step --round 3",
        "python -m accdistill_jax.config studnt",
        "accdistill mirror pul gs://bucket/run",
        "python -m tests.chaos --kill 3 --speed 4",
        "launch/local --process 2 -- --config=configs/distill.py",
        "pip install -e .[gpu]",
        "rm -r runs",
    ],
)
def test_a_wrong_command_is_noticed(command):
    with pytest.raises((AssertionError, SystemExit, UserError)):
        check(shlex.split(command))


@pytest.mark.parametrize("guide", GUIDES, ids=NAMES)
def test_links_and_their_anchors_exist(guide):
    assert broken_links(guide) == []


def test_dead_links_and_anchors_are_noticed(tmp_path):
    (tmp_path / "other.md").write_text("# A `title`, and more\n")
    guide = tmp_path / "README.md"
    guide.write_text("[a](other.md#a-title-and-more) [b](other.md#title) [c](none.md) [d](#e) [f](https://x.org/y)\n")
    assert anchors(tmp_path / "other.md") == {"a-title-and-more"}
    assert broken_links(guide) == ["other.md#title", "none.md", "#e"]


@pytest.mark.parametrize("guide", GUIDES, ids=NAMES)
def test_files_exist(guide):
    text = without_blocks(guide)
    rooted = set(re.findall(r"(?<![\w/.-])((?:accdistill_jax|configs|tests|launch|\.ci|\.github)/[\w./-]*\w)", text))
    spans = set(re.findall(r"(?<!\[)`([\w./-]+\.(?:py|yml|toml|lock))`", text))  # not the text of a link
    missing = {
        name
        for name in rooted | spans
        if not (REPOSITORY / name).exists()
        and not (guide.parent / name).exists()
        and not (REPOSITORY / "launch" / name).exists()
    }
    assert missing - MADE_BY_THE_READER == set()


@pytest.mark.parametrize("guide", GUIDES, ids=NAMES)
def test_configs_presets_and_keys_exist(guide):
    text = text_of(guide)
    for name, preset in re.findall(r"configs/(\w+)\.py(?::(\w+))?", text):
        if name != "common":
            load_config(f"{name}:{preset}" if preset else name)
    known = known_keys()
    sections = {key.rsplit(".", depth)[0] for key in known for depth in range(1, key.count(".") + 1)}
    mentioned = set(re.findall(r"--config\.([\w.]*\w)", text)) | set(re.findall(r"`config\.([a-z_][\w.]+)`", text))
    mentioned |= set(
        re.findall(r"`((?:data|inputs|student|teacher|runtime|evaluation)\.[a-z_][\w.]*)(?:=[^`]*)?`", text)
    )
    unknown = {key for key in mentioned - known.keys() - sections if not OF_RECIPES.search(key)}
    assert unknown - {"KEY", "json", "fields.setting"} == set()  # config.json is a file, config.fields a module


@pytest.mark.parametrize("guide", GUIDES, ids=NAMES)
def test_examples_in_python_and_yaml_are_whole(guide):
    for block in blocks(guide, "python"):
        ast.parse(block)
    for block in blocks(guide, "yaml"):
        assert yaml.safe_load(block)


@pytest.mark.parametrize("guide", GUIDES, ids=NAMES)
def test_nothing_is_left_to_fill_in(guide):
    assert re.findall(r"@@\w+@@|<FILL|TBD|TODO", text_of(guide)) == []


def test_the_config_file_of_the_guide_is_loaded(tmp_path):
    (block,) = blocks(REPOSITORY / "configs" / "README.md", "python")
    (tmp_path / "mine.py").write_text(block)
    config = load_config(str(tmp_path / "mine.py"))
    assert (config.student.encoder.architecture, config.student.train.duration) == ("efficientnet", "2000 steps")


def test_every_objective_is_named():
    from accdistill_jax.config.registry import OBJECTIVES

    text = text_of(REPOSITORY / "configs" / "README.md")
    assert all(f"`{name}`" in text for name in OBJECTIVES.names())


def test_the_recipes_name_classes_of_the_package():
    text = without_blocks(REPOSITORY / ".github" / "CONTRIBUTING.md")
    named = {name for span in re.findall(r"`([^`]*)`", text) for name in re.findall(r"\b([A-Z][a-z]\w+)\(", span)}
    sources = (REPOSITORY / "accdistill_jax").rglob("*.py")
    defined = {name for path in sources for name in re.findall(r"^class (\w+)", path.read_text("utf-8"), re.MULTILINE)}
    assert named and named - defined == set()


def test_the_map_names_every_folder():
    package = REPOSITORY / "accdistill_jax"
    text = text_of(package / "README.md")
    rooms = [path.name + "/" if path.is_dir() else path.name for path in package.iterdir()]
    expected = {name for name in rooms if name.endswith((".py", "/")) and not name.startswith("__")} - {"configs/"}
    assert {name for name in expected if f"`{name}`" not in text} == set()


def test_every_benchmark_is_in_its_guide():
    from accdistill_jax.benchmark.__main__ import COMMANDS as BENCHMARKS

    text = text_of(REPOSITORY / "accdistill_jax" / "benchmark" / "README.md")
    assert {name for name in BENCHMARKS if f"`{name}" not in text and f"benchmark {name}" not in text} == set()


def test_the_readme_is_short():
    assert len(text_of(README).splitlines()) <= 200
