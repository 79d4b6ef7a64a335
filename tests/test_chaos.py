"""A sample of `python -m tests.chaos`, the whole of which takes many minutes: processes of a run are killed at random moments.

ACCDISTILL_CHAOS_KILLS=30 (or more) kills that often; ACCDISTILL_CHAOS_SEED chooses other moments.
"""

import os
import re
import subprocess
import sys

import pytest

KILLS = int(os.environ.get("ACCDISTILL_CHAOS_KILLS", "2"))
SEED = os.environ.get("ACCDISTILL_CHAOS_SEED", "0")


@pytest.mark.long
@pytest.mark.timeout(600 + 240 * KILLS)
@pytest.mark.parametrize("option", [(), ("--change-topology",), ("--through-launcher",)], ids=("same", "changed", "launched"))
def test_killed_runs_end_as_the_undisturbed_one(repository, option):
    if option and "ACCDISTILL_CHAOS_KILLS" not in os.environ:
        pytest.skip("takes minutes: set ACCDISTILL_CHAOS_KILLS")
    command = [sys.executable, "-m", "tests.chaos", "--kills", str(KILLS), "--seed", SEED, *option]
    done = subprocess.run(command, cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout
    assert len(re.findall(r"^kill \d+/", done.stdout, re.MULTILINE)) == KILLS
