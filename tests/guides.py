"""The guides: README files and CONTRIBUTING.md, with commands in fenced bash blocks; each kind of command has a check."""

import contextlib
import functools
import importlib
import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

from absl import flags

from accdistill_jax import main as train
from accdistill_jax.api import (
    demo_command,
    embed_command,
    embed_teacher_command,
    export_command,
    predict_command,
    probe_command,
)
from accdistill_jax.config.__main__ import main as print_config
from accdistill_jax.config.load import load_for_training
from accdistill_jax.data.prepare import __main__ as prepare
from accdistill_jax.reproduce.noise import __main__ as noise
from accdistill_jax.reproduce.plan.command_line import parse_command_line
from accdistill_jax.reproduce.plan.experiments import EXPERIMENTS
from accdistill_jax.reproduce.wearers import __main__ as wearers

REPOSITORY = Path(__file__).parents[1]
README = REPOSITORY / "README.md"
LAUNCH = REPOSITORY / "launch" / "README.md"  # tests/launch/test_launch_readme.py checks its commands
_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
_REFERENCE = {"preset": "cpu", "data": ["synthetic"], "unseen": [], "only": [], "seeds": 3, "overrides": []}


def guides() -> list[Path]:
    """All guides of the repository."""
    folders = [(REPOSITORY / folder).glob("README.md") for folder in ("", "configs", "launch")]
    return sorted(
        [
            *(path for folder in folders for path in folder),
            *(REPOSITORY / "accdistill_jax").rglob("README.md"),
            REPOSITORY / ".github" / "CONTRIBUTING.md",
            REPOSITORY / "CHANGELOG.md",
        ]
    )


def text_of(guide: Path) -> str:
    """The guide's Markdown."""
    return guide.read_text(encoding="utf-8")


def without_blocks(guide: Path) -> str:
    """The guide's Markdown without fenced blocks."""
    return _FENCE.sub("", text_of(guide))


def blocks(guide: Path, language: str) -> list[str]:
    """The fenced blocks of a guide in this language."""
    return [block for name, block in _FENCE.findall(text_of(guide)) if name == language]


def commands(guide: Path) -> list[list[str]]:
    """The commands of a guide's bash blocks, each as its words."""
    lines = [line for block in blocks(guide, "bash") for line in block.replace("\\\n", " ").splitlines()]
    parts = [part for line in lines for part in line.split("&&")]
    return [words for part in parts if (words := shlex.split(part, comments=True))]


def run(command: list[str], folder: Path, *, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    """Runs a command of a guide in a folder, with this interpreter and this package."""
    words = [sys.executable if word == "python" else word for word in command]
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout_s)


def anchors(guide: Path) -> set[str]:
    """The anchors of a guide's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", without_blocks(guide), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def broken_links(guide: Path) -> list[str]:
    """The relative links of a guide whose file or anchor does not exist."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_blocks(guide)):
        file, _, anchor = link.partition("#")
        target = (guide.parent / file).resolve() if file else guide
        if link.startswith("https://"):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


def kind_of(words: list[str]) -> tuple[str, ...] | None:
    """The kind of a command: the key of `CHECKS` that it starts with; None if there is none."""
    kinds = [kind for kind in CHECKS if tuple(words[: len(kind)]) == kind]
    return max(kinds, key=len, default=None)


def check(words: list[str]) -> None:
    """Raises AssertionError, UserError or SystemExit if a command of a guide is wrong."""
    kind = kind_of(words)
    assert kind is not None, f"{shlex.join(words)}: a command of a kind that no test checks"
    CHECKS[kind](words[len(kind) :])


def _check_training(arguments: list[str]) -> None:
    saved = flags.FLAGS.flag_values_dict()
    try:
        _, *overrides = train.parse_flags(["accdistill train", *arguments])
        load_for_training(flags.FLAGS.config, overrides)
    finally:
        for name, value in saved.items():
            setattr(flags.FLAGS, name, value)


def _check_preparation(arguments: list[str]) -> None:
    if arguments[0] == "--reader":  # a file that stands in the guide itself
        arguments = ["auto", *arguments[2:]]
    assert prepare.build_parser().parse_args(arguments).command == arguments[0]


def _check_predict(arguments: list[str]) -> None:
    assert predict_command.predict_parser().parse_args(arguments).out


def _check_probe(arguments: list[str]) -> None:
    assert probe_command.probe_parser().parse_args(arguments).target


def _check_embed(arguments: list[str]) -> None:
    assert embed_command.embed_parser().parse_args(arguments).out


def _check_demo(arguments: list[str]) -> None:
    assert demo_command.demo_parser().parse_args(arguments).out


def _check_server(arguments: list[str]) -> None:
    assert arguments[0] == "--directory" and len(arguments) == 2


def _check_export(arguments: list[str]) -> None:
    assert export_command.export_parser().parse_args(arguments).out


def _check_embed_teacher(arguments: list[str]) -> None:
    assert embed_teacher_command.embed_teacher_parser().parse_args(arguments).out


def _check_reproduction(arguments: list[str]) -> None:
    parse_command_line(arguments, reference=_REFERENCE)
    chosen = re.findall(r"--only ((?:[a-z-]+ ?)+?)(?= --|$)", " ".join(arguments))
    assert {name for names in chosen for name in names.split()} <= set(EXPERIMENTS)


def _check_wearers(arguments: list[str]) -> None:
    assert wearers.parse(arguments, wearers.PROG).start


def _check_noise(arguments: list[str]) -> None:
    assert noise.noise_arguments(arguments, noise.PROG).run


def _check_benchmark(arguments: list[str]) -> None:
    benchmark = importlib.import_module("accdistill_jax.benchmark.__main__")
    parser = benchmark.benchmark_parser(arguments[0])
    parser.parse_args([word for word in arguments if not word.startswith("--config.")])


def _check_shipped(arguments: list[str]) -> None:
    command = importlib.import_module("accdistill_jax.shipped.__main__")
    assert command.shipped_parser().parse_args(arguments).work


def _check_config(arguments: list[str]) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        assert print_config(arguments) == 0


def _check_launch(arguments: list[str]) -> None:
    done = run([sys.executable, "launch/local", "--dry-run", *arguments], REPOSITORY)
    assert done.returncode == 0 and "accdistill_jax.main" in done.stdout, done.stderr


def _check_installation(arguments: list[str]) -> None:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for option, value in zip(arguments, arguments[1:], strict=False):
        assert option not in ("-r", "--requirement") or (REPOSITORY / value).is_file(), value
    assert {name for word in arguments for name in re.findall(r"^\.\[(\w+)\]$", word)} <= extras.keys()


def _check_tests(arguments: list[str]) -> None:
    assert (REPOSITORY / arguments[-1]).exists(), arguments


def _check_by_help(*program: str) -> Callable[[list[str]], None]:
    """A check of a command by its --help: it names each option and the sub-command."""

    def check_arguments(arguments: list[str]) -> None:
        text = _help(*program)
        options = [word.partition("=")[0] for word in arguments if word.startswith("-")]
        named = set(re.findall(r"[\w-]+", text))
        assert {*options, arguments[0].partition("=")[0]} <= named, (arguments, text)

    return check_arguments


@functools.cache
def _help(*program: str) -> str:
    done = run([*program, "--help"], REPOSITORY)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _same(*words: str) -> Callable[[list[str]], None]:
    def check_arguments(arguments: list[str]) -> None:
        assert tuple(arguments) == words

    return check_arguments


CHECKS: dict[tuple[str, ...], Callable[[list[str]], None]] = {
    ("python", "-m", "accdistill_jax.main"): _check_training,
    ("accdistill", "train"): _check_training,
    ("python", "-m", "accdistill_jax.data.prepare"): _check_preparation,
    ("accdistill", "prepare"): _check_preparation,
    ("python", "-m", "accdistill_jax.reproduce"): _check_reproduction,
    ("accdistill", "reproduce"): _check_reproduction,
    ("python", "-m", "accdistill_jax.reproduce.wearers"): _check_wearers,
    ("python", "-m", "accdistill_jax.reproduce.noise"): _check_noise,
    ("python", "-m", "accdistill_jax.benchmark"): _check_benchmark,
    ("accdistill", "benchmark"): _check_benchmark,
    ("python", "-m", "accdistill_jax.shipped"): _check_shipped,
    ("python", "-m", "accdistill_jax.config"): _check_config,
    ("accdistill", "predict"): _check_predict,
    ("accdistill", "probe"): _check_probe,
    ("accdistill", "export"): _check_export,
    ("accdistill", "demo"): _check_demo,
    ("python", "-m", "http.server"): _check_server,
    ("accdistill", "embed"): _check_embed,
    ("accdistill", "embed-teacher"): _check_embed_teacher,
    ("accdistill", "mirror"): _check_by_help("python", "-m", "accdistill_jax.storage.mirror"),
    ("accdistill",): _check_by_help("python", "-m", "accdistill_jax.cli"),
    ("python", "-m", "tests.chaos"): _check_by_help("python", "-m", "tests.chaos"),
    ("python", "-m", "tests.bad_inputs"): _check_by_help("python", "-m", "tests.bad_inputs"),
    ("python", "-m", "tests.bad_inputs.damage"): _check_by_help("python", "-m", "tests.bad_inputs.damage"),
    ("python", ".github/images/draw.py"): _check_by_help("python", ".github/images/draw.py"),
    ("launch/local",): _check_launch,
    ("pip", "install"): _check_installation,
    ("python", "-m", "pytest"): _check_tests,
    ("python3", "-m", "venv"): _same(".venv"),
    (".",): _same(".venv/bin/activate"),
}
