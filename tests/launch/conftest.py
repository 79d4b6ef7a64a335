"""Stand-ins for the commands of clouds and schedulers: they record their calls and give prepared answers."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"

# A stand-in's answer is the first rule whose pattern is found in its command line; a rule's answers are used up in order,
# and the last one stays. "run": the --command of ssh is run here, in the workers' homes.
STAND_IN = """
import fcntl, json, os, re, subprocess, sys
home = os.environ["STAND_IN"]
argv = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
line = " ".join(argv)
with open(f"{home}/state.json", "r+") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    state = json.load(file)
    stdin = "" if sys.stdin is None or sys.stdin.isatty() or argv[0] != "kubectl" else sys.stdin.read()
    state["calls"].append({"argv": argv, "stdin": stdin})
    answer = {}
    for rule in state["rules"]:
        if re.search(rule["pattern"], line):
            answer = rule["answers"][0]
            if len(rule["answers"]) > 1:
                rule["answers"].pop(0)
            break
    file.seek(0), file.truncate(), json.dump(state, file)
sys.stdout.write(answer.get("out", ""))
sys.stdout.flush()
status = answer.get("status", 0)
if answer.get("run"):
    command = next(a.partition("=")[2] for a in argv if a.startswith("--command="))
    wanted = next(a.partition("=")[2] for a in argv if a.startswith("--worker="))
    for worker in sorted(os.listdir(f"{home}/workers")):
        if wanted in ("all", worker):
            folder = f"{home}/workers/{worker}"
            status |= subprocess.run(["bash", "-c", command], cwd=folder, env={**os.environ, "HOME": folder}).returncode
sys.exit(status)
"""


@dataclass(frozen=True, kw_only=True)
class Result:
    """Result of a launcher: its exit status, its streams, and the calls it made."""

    status: int
    out: str
    err: str
    calls: list[list[str]]
    stdins: list[str]


class Desk:
    """A folder of stand-ins, first on PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._bin = folder / "bin"
        self._bin.mkdir()
        (folder / "state.json").write_text(json.dumps({"calls": [], "rules": []}))
        for name in ("gcloud", "kubectl", "sbatch", "srun", "scontrol", "squeue", "scancel"):
            path = self._bin / name
            path.write_text(f"#!{sys.executable} -IS\n{STAND_IN}")
            path.chmod(0o755)

    def answer(self, pattern: str, *answers: dict) -> None:
        """Says what calls that match the pattern get; earlier rules win."""
        state = json.loads((self.folder / "state.json").read_text())
        state["rules"].append({"pattern": pattern, "answers": list(answers)})
        (self.folder / "state.json").write_text(json.dumps(state))

    @property
    def environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("TPU_POD_", "GKE_"))}
        return {**kept, "STAND_IN": str(self.folder), "PATH": f"{self._bin}{os.pathsep}{kept['PATH']}"}

    def run(self, *command: str, cwd: Path | None = None, environment: dict[str, str] | None = None) -> Result:
        """Runs a launcher, by its name in launch/, to its end."""
        done = subprocess.run(
            [str(LAUNCH / command[0]), *command[1:]],
            capture_output=True,
            text=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
            cwd=cwd or self.folder,
            env={**self.environment, **(environment or {})},
        )
        state = json.loads((self.folder / "state.json").read_text())
        calls, state["calls"] = state["calls"], []
        (self.folder / "state.json").write_text(json.dumps(state))
        return Result(
            status=done.returncode,
            out=done.stdout,
            err=done.stderr,
            calls=[call["argv"] for call in calls],
            stdins=[call["stdin"] for call in calls],
        )


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)
