"""Real processes of one machine that start together: one generates the store, the others wait for it."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from accdistill_jax.data.store.store import Store
from accdistill_jax.data.synthetic import synthetic
from accdistill_jax.errors import UserError
from accdistill_jax.storage import locking

POPULATION = synthetic.SyntheticSettings(participants=4, segments_per_participant=3)
# Prints a line when it could begin, begins when told to, and says how many participants it generated and what it read.
MAKE = """
import json, sys
from accdistill_jax.data.synthetic import synthetic
from accdistill_jax.storage import locking
locking.SAY_AFTER_S = 0.1
generated, said = [], []
add = synthetic._add
synthetic._add = lambda *arguments: generated.append(arguments[-1]) or add(*arguments)
print("ready", flush=True)
sys.stdin.readline()
settings = synthetic.SyntheticSettings(participants=4, segments_per_participant=3)
def say(line):
    said.append(line)
    print("waiting", flush=True)
store = synthetic.shared_store(sys.argv[1], settings, say=say)
print(json.dumps({"generated": len(generated), "fingerprint": store.fingerprint, "said": said}))
"""
HOLD = """
import signal, sys
from accdistill_jax.storage.locking import file_lock
with file_lock(sys.argv[1] + ".lock", waiting=lambda: None):
    print("held", flush=True)
    signal.pause()
"""


@pytest.fixture
def start(repository):
    """start(program, path) -> a process that has printed its first line; all are ended with the test."""
    running = []

    def run(program: str, path: Path) -> subprocess.Popen:
        running.append(
            subprocess.Popen(
                [sys.executable, "-c", program, str(path)],
                cwd=repository,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        )
        return running[-1]

    yield run
    for process in running:
        process.kill()
        process.communicate()


def finish(process: subprocess.Popen) -> dict:
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return json.loads(out.splitlines()[-1])


def tree(path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in Path(path).rglob("*") if p.is_file()}


@pytest.mark.slow
def test_processes_that_start_together_make_one_store(start, tmp_path):
    processes = [start(MAKE, tmp_path / "run" / "synthetic") for _ in range(3)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    results = [finish(process) for process in processes]
    assert sorted(result["generated"] for result in results) == [0, 0, 4]
    alone = synthetic.write_store(tmp_path / "alone", POPULATION)
    assert {result["fingerprint"] for result in results} == {alone.fingerprint}
    assert tree(tmp_path / "run" / "synthetic") == tree(tmp_path / "alone")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["synthetic", "synthetic.lock"]


def test_a_killed_holder_lets_the_waiting_process_go_on(start, tmp_path):
    path = tmp_path / "synthetic"
    holder = start(HOLD, path)
    assert holder.stdout.readline() == "held\n"
    waiting = start(MAKE, path)
    waiting.stdin.write("go\n")
    waiting.stdin.flush()
    assert [waiting.stdout.readline() for _ in range(2)] == ["ready\n", "waiting\n"]
    assert not path.exists()
    holder.send_signal(signal.SIGKILL)
    result = finish(waiting)
    assert result["generated"] == 4 and result["said"] == [f"data: waiting for another process that generates {path}"]


def test_what_is_there_is_opened_without_the_lock(tmp_path):
    """Also from a folder where nothing can be written any more."""
    path = tmp_path / "synthetic"
    fingerprint = synthetic.write_store(path, POPULATION).fingerprint
    with locking.file_lock(f"{path}.lock", waiting=pytest.fail):
        assert synthetic.shared_store(path, POPULATION, say=pytest.fail).fingerprint == fingerprint


def test_another_population_there_is_refused(tmp_path):
    synthetic.write_store(tmp_path / "s", POPULATION)
    with pytest.raises(UserError, match="participants: 4 there, 5 now"):
        synthetic.shared_store(
            tmp_path / "s", synthetic.SyntheticSettings(participants=5, segments_per_participant=3), say=print
        )
    assert Store.open(tmp_path / "s").num_segments


def test_a_store_of_an_older_version_says_what_to_do(tmp_path, edit_manifest):
    synthetic.write_store(tmp_path / "s", POPULATION)
    edit_manifest(tmp_path / "s", format_version=1)
    with pytest.raises(
        UserError, match="format version 1.*delete that folder if a run made it .the run makes it again"
    ):
        synthetic.shared_store(tmp_path / "s", POPULATION, say=print)


def test_units_staged_by_an_older_version_are_not_used(tmp_path):
    staged = tmp_path / "s.partial"
    staged.mkdir()
    (staged / "request.json").write_text('{"source": "synthetic"}')
    with pytest.raises(
        UserError, match=r"other settings is kept there .*format_version: None there, 2 now.* deleting that folder"
    ):
        synthetic.shared_store(tmp_path / "s", POPULATION, say=print)


def test_lock_file_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="s.lock: the lock file cannot be made"):
        synthetic.shared_store(tmp_path / "file" / "s", POPULATION, say=print)
