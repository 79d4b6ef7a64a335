"""Stores made to do harm end in one line, in bounded memory and time."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from accdistill_jax.data.store.store import Store
from tests.bad_inputs.hostile_stores import hostile_stores, sign

MOST_MB = 600  # more than what opening a whole store needs
MOST_S = 20.0

# Opens and reads each store that a line of stdin names; says what came of it.
OPENER = """
import json, resource, signal, sys, time
import numpy as np
from accdistill_jax.data.store.manifest import verify_checksums
from accdistill_jax.data.store.store import Store
from accdistill_jax.errors import UserError

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

def meet(path):
    store = Store.open(path)
    store.read(np.arange(store.num_segments))
    verify_checksums(path)

signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError("too long")))
for line in sys.stdin:
    before, began, outcome = peak(), time.monotonic(), "accepted"
    signal.alarm(60)
    try:
        meet(line.rstrip("\\n"))
    except UserError as error:
        outcome = f"error: {error}"
    except BaseException as error:
        outcome = f"{type(error).__name__}: {error}"
    signal.alarm(0)
    print(json.dumps({"outcome": outcome, "mb": peak() - before, "seconds": time.monotonic() - began}), flush=True)
"""


@pytest.fixture
def opener(repository):
    process = subprocess.Popen(
        [sys.executable, "-c", OPENER], cwd=repository, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    yield process
    process.kill()
    process.communicate()


def meet(opener: subprocess.Popen, path: Path) -> dict:
    opener.stdin.write(f"{path}\n")
    opener.stdin.flush()
    return json.loads(opener.stdout.readline())


@pytest.mark.slow
def test_hostile_stores_end_in_one_line(whole, tmp_path, opener):
    assert meet(opener, Path(whole))["outcome"] == "accepted"
    wrong = []
    for number, (name, spoil) in enumerate(hostile_stores()):
        store = Path(shutil.copytree(whole, tmp_path / f"hostile-{number}"))
        spoil(store)
        found = meet(opener, store)
        outcome = found["outcome"]
        right = (
            outcome.startswith("error: ") and "\n" not in outcome and len(outcome) < 2000 and str(tmp_path) in outcome
        )
        if not right or found["mb"] > MOST_MB or found["seconds"] > MOST_S:
            wrong.append(f"{name}: {outcome[:300]} ({found['mb']:.0f} MB, {found['seconds']:.1f} s)")
        shutil.rmtree(store)
    assert not wrong, "\n".join([f"{len(wrong)} of {number + 1}", *wrong])


def test_links_to_files_elsewhere_are_no_harm(whole, tmp_path):
    """Shards may lie on another disk."""
    shard = Path(whole) / "ppg/c/0/0/0"
    shard.rename(tmp_path / "elsewhere")
    shard.symlink_to(tmp_path / "elsewhere")
    sign(Path(whole))
    assert Store.open(whole, verify=True).num_segments == 24
