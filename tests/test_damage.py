"""A sample of the damage to every kind of file (more: python -m tests.bad_inputs.damage --count 4000), and what judges it.

ACCDISTILL_DAMAGE_COUNT chooses how many, ACCDISTILL_DAMAGE_SEED others.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from accdistill_jax.errors import UserError
from tests.bad_inputs import damage
from tests.bad_inputs.file_kinds import KINDS, MADE_AGAIN, Kind

COUNT = os.environ.get("ACCDISTILL_DAMAGE_COUNT", "100")
SEED = os.environ.get("ACCDISTILL_DAMAGE_SEED", "0")


@pytest.mark.slow
@pytest.mark.timeout(120 + 2 * int(COUNT))
def test_damage_is_noticed_or_harmless_in_every_kind_of_file(repository):
    command = [
        sys.executable,
        "-m",
        "tests.bad_inputs.damage",
        "--count",
        COUNT,
        "--kills",
        str(int(COUNT) // 5),
        "--seed",
        SEED,
    ]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    for name in KINDS:
        assert f"\n{name} " in done.stdout and f"\n{name}, killed " in done.stdout
    total = int(done.stdout.splitlines()[-1].split()[0])
    assert total >= int(COUNT) * 6 // 5 - len(KINDS)


# The judge


@pytest.fixture(autouse=True)
def alarm():
    before = signal.signal(signal.SIGALRM, damage._hung)
    yield
    signal.signal(signal.SIGALRM, before)


def judge(tmp_path: Path, read) -> str:
    return damage.outcome(Kind(lambda folder, version: None, read, 1), tmp_path, {"right": "harmless"})[0]


def fail(error: BaseException):
    def read(folder: Path) -> str:
        raise error

    return read


def test_outcomes(tmp_path, monkeypatch):
    assert judge(tmp_path, lambda folder: "right") == "harmless"
    assert judge(tmp_path, lambda folder: "other") == "WRONG"
    assert judge(tmp_path, lambda folder: MADE_AGAIN) == "made again"
    assert judge(tmp_path, fail(UserError("in one line"))) == "refused"
    assert judge(tmp_path, fail(UserError("in\ntwo"))) == "WRONG"
    assert judge(tmp_path, fail(KeyError("x"))) == "WRONG"
    monkeypatch.setattr(damage, "LIMIT_S", 1)
    assert judge(tmp_path, lambda folder: time.sleep(20)) == "WRONG"
    monkeypatch.setattr(damage, "MOST_MB", -1)
    assert judge(tmp_path, lambda folder: "right") == "WRONG"


def test_the_same_seed_damages_alike_and_always_something(tmp_path):
    whole = tmp_path / "whole"
    (whole / "in").mkdir(parents=True)
    (whole / "a.json").write_text(json.dumps(list(range(100))))
    (whole / "in/b").write_bytes(bytes(10_000))
    said = []
    for seed in (0, 0, 1):
        rng, own = random.Random(seed), []
        for number in range(60):
            folder = Path(shutil.copytree(whole, tmp_path / f"{seed}-{number}-{len(said)}"))
            own.append(damage.damage(folder, rng))
            changed = [
                path
                for path in damage.files(whole)
                if not (folder / path.relative_to(whole)).is_file()
                or (folder / path.relative_to(whole)).read_bytes() != path.read_bytes()
            ]
            assert len(changed) == 1
        said.append(own)
    assert said[0] == said[1] != said[2]


def test_every_kind_is_damaged_in_its_share():
    counts = damage.shares(1000, None)
    assert counts.keys() == KINDS.keys() and abs(sum(counts.values()) - 1000) < len(KINDS) and min(counts.values()) >= 1
    assert damage.shares(10, "store") == {"store": 10}
