import os
import signal
import subprocess
import sys

import pytest

from accdistill_jax.files import remove_leftovers, write_atomically


@pytest.mark.parametrize(("content", "read"), [("größer\n", b"gr\xc3\xb6\xc3\x9fer\n"), (b"\x00\xff", b"\x00\xff")])
def test_content_arrives_and_replaces(tmp_path, content, read):
    path = tmp_path / "a.json"
    path.write_text("old and longer than the new content")
    write_atomically(path, content)
    assert path.read_bytes() == read and os.listdir(tmp_path) == ["a.json"]


def test_failed_write_leaves_the_old_content_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text("old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.json"]


def test_what_a_kill_has_left_is_removed_and_nothing_else(tmp_path, repository):
    (tmp_path / "below").mkdir()
    kept = {tmp_path / "a.json", tmp_path / ".lock", tmp_path / "below" / "mine.tmp", tmp_path / "below" / ".mine.tmp"}
    for path in kept:
        path.touch()
    program = f"""
import os, signal
from accdistill_jax.files import write_atomically
os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)
write_atomically({str(tmp_path / "below" / "b.json")!r}, "text")
"""
    assert subprocess.run([sys.executable, "-c", program], cwd=repository).returncode == -signal.SIGKILL
    assert len(list((tmp_path / "below").iterdir())) == 3
    remove_leftovers(tmp_path)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == kept
