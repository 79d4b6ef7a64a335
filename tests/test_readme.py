"""The README against the program: its commands parse, its files, presets and keys exist, its example loads.

The commands themselves run in .ci/run and in the tests of the entry points.
"""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import yaml

from accdistill_jax.config.convert import known_keys
from accdistill_jax.config.load import load_config
from accdistill_jax.data import recordings
from accdistill_jax.data.prepare import __main__ as prepare
from accdistill_jax.reproduce.plan.experiments import EXPERIMENTS

REPOSITORY = Path(__file__).parents[1]
README = REPOSITORY / "README.md"
TEXT = README.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
COMMANDS = [
    part.strip()
    for language, block in BLOCKS
    if language in ("bash", "sh", "shell")
    for line in block.replace("\\\n", " ").splitlines()
    for part in line.split("&&")
    if part.strip() and not part.strip().startswith("#")
]
PARSE = """
import sys
from absl import flags
from accdistill_jax import main
from accdistill_jax.config.load import load_config
program, *overrides = main.parse_flags(sys.argv)
load_config(flags.FLAGS.config, overrides)
"""


def commands(*start: str) -> list[list[str]]:
    """Arguments of the README's commands that begin with these words."""
    split = [shlex.split(command, comments=True) for command in COMMANDS]
    return [words[len(start) :] for words in split if tuple(words[: len(start)]) == start]


def test_every_command_is_of_a_kind_that_is_checked_here():
    known = (
        ("python", "-m", "accdistill_jax.main"),
        ("python", "-m", "accdistill_jax.data.prepare"),
        ("python", "-m", "pytest"),
        ("pip", "install"),
        ("launch/local",),
        ("python", "-m", "accdistill_jax.reproduce"),
        ("python3", "-m", "venv"),
        (".", ".venv/bin/activate"),
    )
    split = [tuple(shlex.split(command, comments=True)) for command in COMMANDS]
    assert [words for words in split if not any(words[: len(start)] == start for start in known)] == []
    for start in known[:6]:
        assert commands(*start), f"no command {' '.join(start)}: has the README lost its code blocks?"


@pytest.mark.parametrize("arguments", commands("python", "-m", "accdistill_jax.main"), ids=" ".join)
def test_runs_parse_and_are_valid(arguments):
    done = subprocess.run(
        [sys.executable, "-c", PARSE, *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", commands("launch/local"), ids=" ".join)
def test_launches_parse(arguments):
    command = [sys.executable, "launch/local", "--dry-run", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "accdistill_jax.main" in done.stdout, done.stderr


@pytest.mark.parametrize("arguments", commands("python", "-m", "accdistill_jax.reproduce"), ids=" ".join)
def test_reproductions_parse(arguments):
    from accdistill_jax.reproduce.plan.command_line import parse_command_line

    reference = {"preset": "cpu", "data": ["synthetic"], "unseen": [], "only": [], "seeds": 3, "overrides": []}
    wanted = parse_command_line(arguments, reference=reference)
    assert wanted.preset in ("smoke", "cpu")
    asked = re.findall(r"--only ([a-z-]+)", re.sub(r"`benchmark [^`]*`", "", TEXT))
    assert asked and set(asked) <= EXPERIMENTS.keys()


@pytest.mark.parametrize("arguments", commands("python", "-m", "accdistill_jax.data.prepare"), ids=" ".join)
def test_preparations_parse(arguments):
    parsed = prepare.build_parser().parse_args(arguments)
    assert parsed.command == arguments[0]


def test_installations_name_what_is_there():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    words = [word for arguments in commands("pip", "install") for word in arguments]
    for file in (words[i + 1] for i, word in enumerate(words) if word in ("-r", "--requirement")):
        assert (REPOSITORY / file).is_file(), file
    mentioned = re.findall(r"pip install -e \"?\.\[(\w+)\]", TEXT)
    assert set(mentioned) <= project["optional-dependencies"].keys()
    for arguments in commands("python", "-m", "pytest"):
        assert (REPOSITORY / arguments[-1]).exists(), arguments


def test_configs_and_presets_exist():
    mentioned = re.findall(r"configs/(\w+)\.py(?::(\w+))?", TEXT)
    assert mentioned
    for name, preset in mentioned:
        if name == "common":
            continue
        load_config(f"{name}:{preset}" if preset else name)


def test_keys_exist():
    known = known_keys()
    mentioned = set(re.findall(r"--config\.([\w.]*\w)", TEXT)) | set(re.findall(r"`config\.([\w.]+)`", TEXT))
    sections = {key.rsplit(".", depth)[0] for key in known for depth in range(1, key.count(".") + 1)}
    assert mentioned and mentioned - known.keys() - sections - {"KEY", "x", "json"} == set()  # config.json is a file


def test_files_exist():
    """Files of the repository; what a run or a preparation makes is not one."""
    own = r"(?:accdistill_jax|configs|tests|launch|\.ci|\.readme|docs)/[\w./-]*\w"
    mentioned = set(re.findall(rf"(?<![\w/.-])({own})", TEXT))
    assert mentioned
    assert {name for name in mentioned if not (REPOSITORY / name).exists()} == set()
    for link in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert link.startswith("https://") or (REPOSITORY / link).exists(), link


def test_nothing_is_left_to_fill_in():
    for text in (TEXT, (REPOSITORY / "launch/README.md").read_text(encoding="utf-8")):
        assert re.findall(r"@@\w+@@|<FILL|TBD|TODO", text) == []


def test_the_example_recording_loads(tmp_path):
    blocks = [block for language, block in BLOCKS if language == "yaml"]
    assert blocks
    for number, block in enumerate(blocks):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "recording.yaml").write_text(block)
        described = yaml.safe_load(block)
        assert described["streams"].keys() == {"ppg", "accel"}
        parts = [*described["streams"].values(), *([described["beats"]] if "beats" in described else [])]
        for part in parts:
            columns = [part[key] for key in ("time", "interval") if key in part] + list(part.get("columns", []))
            seconds = np.arange(120.0) / 10
            scale = {"ms": 1000.0}.get(part.get("time_unit"), 1.0)
            table = np.stack(
                [seconds * scale if name == part.get("time") else 800 + np.sin(seconds) for name in columns], axis=1
            )
            np.savetxt(folder / part["file"], table, delimiter=",", header=",".join(columns), comments="")
        (source,) = recordings.find("generic", folder)
        loaded = source.load()
        assert loaded.streams.keys() >= {"ppg", "accel"}
        assert loaded.participant.participant_id == described["participant"]["id"]
