"""The same command, started again while the first still runs: told in one line, and nothing of the first is touched."""

import contextlib
import os
import subprocess
import sys

import pytest

from accdistill_jax.benchmark.__main__ import main as benchmark
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.store.manifest import partial_path, read_manifest
from accdistill_jax.data.store.removal import REQUEST
from accdistill_jax.data.store.request import existing_store
from accdistill_jax.data.store.writer import StoreWriter
from accdistill_jax.data.synthetic.synthetic import SyntheticSettings, write_store
from accdistill_jax.errors import UserError
from accdistill_jax.reproduce.__main__ import main as reproduce
from accdistill_jax.run import run
from accdistill_jax.storage.sole_use import sole_use

HOLDER = rf"process {os.getpid()} on \S+, since \d\d\d\d-\d\d-\d\d \d\d:\d\d:\d\d"
POPULATION = SyntheticSettings(participants=2, segments_per_participant=2)
PREPROCESS = PreprocessSettings()


@contextlib.contextmanager
def held(folder):
    """Context in which this process is the first start, and which sees to it that the second leaves nothing."""
    with sole_use(folder, refusal=str):
        before = sorted(folder.rglob("*"))
        yield
        assert sorted(folder.rglob("*")) == before


def test_a_second_run_in_a_work_directory(smoke_config, tmp_path):
    with (
        held(tmp_path),
        pytest.raises(UserError, match=rf"^{tmp_path} is in use by another run \({HOLDER}\); wait for it, stop it, or"),
    ):
        run(smoke_config(), str(tmp_path))


@pytest.mark.slow
def test_a_second_command_in_a_work_directory(repository, tmp_path):
    command = [
        sys.executable,
        "-m",
        "accdistill_jax.main",
        "--config=configs/distill.py:smoke",
        f"--workdir={tmp_path}",
    ]
    with held(tmp_path):
        done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {tmp_path} is in use by another run (process {os.getpid()} on ")
    assert done.stderr.count("\n") == 1


def test_a_run_gives_its_folder_free(smoke_config, tmp_path):
    run(smoke_config(stages=("data",)), str(tmp_path))
    with held(tmp_path):
        pass


@pytest.mark.slow
def test_a_second_reproduction(capsys, monkeypatch, repository, tmp_path):
    monkeypatch.chdir(repository)
    monkeypatch.syspath_prepend(str(repository))
    with held(tmp_path):
        assert reproduce(["--preset=smoke", f"--out={tmp_path}"]) == 2
        assert capsys.readouterr().err.startswith(
            f"error: {tmp_path} is in use by another process (process {os.getpid()} on "
        )
        assert reproduce(["--preset=smoke", f"--out={tmp_path}", "--list"]) == 0


@pytest.mark.slow
def test_a_second_tradeoff(capsys, monkeypatch, repository, tmp_path):
    monkeypatch.chdir(repository)
    with held(tmp_path):
        assert benchmark(["tradeoff", "--config=configs/distill.py:smoke", f"--folder={tmp_path}"]) == 2
    assert f"error: {tmp_path} is in use by another process (process {os.getpid()} on " in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_second_preparation_changes_no_request(tmp_path, overwrite):
    request = {"settings": PREPROCESS, "source_settings": POPULATION.to_json()}
    first = StoreWriter(tmp_path / "s", source="synthetic", **request)
    path = tmp_path / "s.partial" / REQUEST
    with first.exclusive():
        before = path.read_bytes()
        with pytest.raises(UserError, match=rf"s: another process is preparing this store \({HOLDER}\); wait for it"):
            StoreWriter(tmp_path / "s", source="another", **request, overwrite=overwrite)
        assert path.read_bytes() == before


@pytest.mark.slow
def test_the_request_is_not_written_before_the_lock_is_held(tmp_path):
    (tmp_path / "s.partial").mkdir()
    with held(tmp_path / "s.partial"), pytest.raises(UserError, match="another process is preparing"):
        StoreWriter(tmp_path / "s", settings=PREPROCESS, source="synthetic")


def test_a_complete_store_is_opened_while_another_process_replaces_it(tmp_path):
    """The staged files of the first start used to be removed."""
    write_store(tmp_path / "s", POPULATION, PREPROCESS)
    request = {"settings": PREPROCESS, "source": "synthetic", "source_settings": POPULATION.to_json()}
    units = [staged["unit"] for staged in read_manifest(tmp_path / "s")["prepared"]]
    with sole_use(partial_path(tmp_path / "s"), refusal=str):
        (tmp_path / "s.partial" / REQUEST).write_text("{}")
        assert existing_store(tmp_path / "s", units=units, **request).num_segments == 4
        assert (tmp_path / "s.partial" / REQUEST).exists()
    assert existing_store(tmp_path / "s", units=units, **request).num_segments == 4
    assert not (tmp_path / "s.partial").exists()
