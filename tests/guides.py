"""The guides: README files beside the code, with commands in fenced bash blocks."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def guides() -> list[Path]:
    """All guides of the package and of the configs."""
    return sorted([*(REPOSITORY / "accdistill_jax").rglob("README.md"), *(REPOSITORY / "configs").glob("README.md")])


def blocks(guide: Path, language: str) -> list[str]:
    """The fenced blocks of a guide in this language."""
    text = guide.read_text(encoding="utf-8")
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [block for name, block in found if name == language]


def commands(guide: Path) -> list[list[str]]:
    """The commands of a guide's bash blocks, each as its words."""
    lines = [line for block in blocks(guide, "bash") for line in block.replace("\\\n", " ").splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command of a guide in a folder, with this interpreter and this package."""
    words = [sys.executable if word == "python" else word for word in command]
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
