"""launch/README.md against the launchers: its commands are taken, its flags exist, its table is the program's."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from accdistill_jax.errors import ExitStatus

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "launch" / "README.md").read_text(encoding="utf-8")
VARIABLES = {
    "PROJECT": "p",
    "REGION": "us-central1",
    "BUCKET": "gs://b",
    "TPU_POD_ZONE": "us-central1-a",
    "TPU_POD_ACCELERATOR_TYPE": "v5litepod-16",
}
BLOCKS = re.findall(r"^ *```bash\n(.*?)^ *```$", TEXT, re.DOTALL | re.MULTILINE)
LINES = [
    part.strip() for block in BLOCKS for line in block.splitlines() for part in line.split(" #")[0].split(";")
]
LINES += re.findall(r"`((?:launch/\w+|gcloud) [^`]+)`", TEXT)


def commands(start: str) -> list[list[str]]:
    found = [line for line in LINES if re.match(start, line)]
    assert found, f"no command {start}: has the README lost it?"
    expanded = [re.sub(r"\$(\w+)", lambda match: VARIABLES[match[1]], line) for line in found]
    return [shlex.split(line) for line in expanded]


@pytest.mark.parametrize("words", commands("launch/"), ids=" ".join)
def test_launchers_take_the_commands(desk, words):
    separator = words.index("--") if "--" in words else len(words)
    words = [*words[:separator], "--dry-run", *words[separator:]]
    done = subprocess.run(
        words,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env={**desk.environment, **VARIABLES, "CUDA_VISIBLE_DEVICES": "0,1,2,3"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("words", commands("gcloud "), ids=" ".join)
def test_gcloud_knows_the_commands(words):
    gcloud = shutil.which("gcloud")
    table = Path(gcloud).resolve().parents[1] / "data" / "cli" / "gcloud_completions.py" if gcloud else None
    if table is None or not table.exists():
        pytest.skip("the Google Cloud SDK is not installed")
    names: dict = {}
    exec(table.read_text(), names)
    node = names["STATIC_COMPLETION_CLI_TREE"]
    words = words[1:]
    while words and words[0] in node.get("commands", {}):
        node = node["commands"][words.pop(0)]
    assert not node.get("commands"), f"no command {words[0]}"
    flags = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert flags - {"--project"} <= set(node["flags"])


def test_the_table_of_statuses_is_the_programs():
    table = TEXT.split("## Exit statuses")[1].split("##")[0]
    rows = {int(row): rest for row, rest in re.findall(r"^\| (\d+) \| (.*) \|$", table, re.MULTILINE)}
    assert set(rows) == {1, *map(int, ExitStatus)}
    again = {status for status, rest in rows.items() if "start again" in rest}
    assert again == {ExitStatus.RELAUNCH, ExitStatus.TERMINATED}


def test_what_could_not_be_tried_is_marked():
    for title in ("A Cloud TPU pod from an empty project", "GKE", "SLURM"):
        section = TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]
        assert section.count("NOT TRIED") == 1


def test_files_named_exist():
    for name in re.findall(r"(?<![\w/])launch/[\w.-]*\w(?![\w$-])", TEXT):
        assert (ROOT / name).exists(), name
    assert os.access(ROOT / "launch" / "local", os.X_OK)
