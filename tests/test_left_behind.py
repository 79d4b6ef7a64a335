"""A test that fails leaves no process behind."""

import os
import subprocess
import sys

from tests import left_behind

FAILS = """
import subprocess, sys
def test_that_fails():
    child = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); print('up', flush=True)"
    process = subprocess.Popen([sys.executable, "-c", child + "; time.sleep(600)"], stdout=subprocess.PIPE, start_new_session=True)
    process.stdout.readline()
    orphan = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE)
    orphan.wait()
    assert False
"""
CONFTEST = """
import os, pytest
from tests import left_behind
@pytest.fixture(autouse=True)
def ends(monkeypatch):
    monkeypatch.setenv(left_behind.MARK, "inner")
    yield
    print("ENDED", len(left_behind.end("inner")))
"""


def test_processes_of_a_failing_test_and_theirs_are_ended(tmp_path, repository):
    (tmp_path / "test_fails.py").write_text(FAILS)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    path = os.pathsep.join([str(repository), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-s", "--rootdir", tmp_path, tmp_path],
        cwd=repository,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1 and "ENDED 3" in done.stdout, done.stdout
    assert not left_behind.marked("inner")


def test_the_suite_marks_what_it_starts(repository):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert process.pid in left_behind.marked(os.environ[left_behind.MARK])
        assert process.pid in left_behind.end(os.environ[left_behind.MARK])
    assert process.returncode < 0
