"""Paths as users give them: ~ in every one, and machines without a home."""

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

import accdistill_jax as ad
from accdistill_jax.benchmark.__main__ import benchmark_parser
from accdistill_jax.config.load import load_config
from accdistill_jax.data.prepare.__main__ import build_parser as prepare
from accdistill_jax.errors import UserError
from accdistill_jax.reproduce.plan.command_line import parse_command_line as reproduce
from accdistill_jax.run import run
from accdistill_jax.storage.folder import open_folder
from accdistill_jax.storage.mirror import staging_folder
from accdistill_jax.user_paths import cache_folder, expanded


@pytest.fixture
def home(tmp_path, monkeypatch):
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    return folder


@pytest.fixture
def homeless(monkeypatch):
    def unknown(_):
        raise KeyError("no such user")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def test_a_home_and_anothers(home):
    assert expanded("~/runs/x") == f"{home}/runs/x" and expanded("~") == str(home)
    assert expanded("~root/x") == os.path.join(pwd.getpwnam("root").pw_dir, "x")
    for path in ("runs/x", "/a/~/b", "./~x", "a~", "gs://bucket/~x"):
        assert expanded(path) == path
    assert expanded("file:///a/b") == "/a/b"


def test_a_user_that_is_none_is_named():
    with pytest.raises(
        UserError, match="^~nobody-here/x: there is no user nobody-here on this machine; give the whole path, or ./~no"
    ):
        expanded("~nobody-here/x")


def test_a_home_that_is_none_is_told(homeless):
    with pytest.raises(UserError, match="^~/x: there is no home folder here"):
        expanded("~/x")
    with pytest.raises(UserError, match="~/x: there is no home folder"):
        open_folder("~/x")
    with pytest.raises(UserError, match="no home folder here .*; set XDG_CACHE_HOME to a folder that can be written"):
        staging_folder("gs://bucket/run")


@pytest.mark.parametrize("cache", ["", "relative/folder"])
def test_the_cache_folder_is_at_home_or_where_it_is_set_to_be(home, monkeypatch, tmp_path, cache):
    monkeypatch.setenv("XDG_CACHE_HOME", cache)
    assert cache_folder() == home / ".cache" / "accdistill_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_folder() == tmp_path / "cache" / "accdistill_jax"


def test_a_cache_folder_that_cannot_be_written_is_named(home, monkeypatch):
    (home / ".cache").touch()
    with pytest.raises(UserError, match=f"^{home}/.cache/accdistill_jax: cannot be written .*; set XDG_CACHE_HOME"):
        cache_folder()
    monkeypatch.setenv("HOME", "/proc/nonexistent")
    with pytest.raises(UserError, match="^/proc/nonexistent/.cache/accdistill_jax: cannot be written"):
        cache_folder()


def test_a_folder_of_somebody_else_is_not_taken_for_a_cache(home, monkeypatch):
    (home / ".cache" / "accdistill_jax").mkdir(parents=True)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UserError, match="cannot be written .Permission denied."):
        cache_folder()


def test_every_path_of_every_command(home, repository, monkeypatch):
    monkeypatch.chdir(repository)
    given = prepare().parse_args(["generic", "~/in", "--out=~/store", "--split-file=~/split.csv"])
    assert (given.root, given.out, given.split_file) == ([f"{home}/in"], f"{home}/store", f"{home}/split.csv")
    given = prepare().parse_args(["show", "~/store", "--plot=~/a.png"])
    assert (given.store, given.plot) == (f"{home}/store", f"{home}/a.png")
    given = reproduce(["--data", "~/a", "~/b", "--unseen", "~/c", "--out=~/d", "--check=~/e.json"])
    assert (given.stores, given.unseen) == ((f"{home}/a", f"{home}/b"), (f"{home}/c",))
    assert (given.out, given.check) == (home / "d", home / "e.json")
    assert benchmark_parser("tradeoff").parse_args(["tradeoff", "--json=~/a.json"]).json == home / "a.json"
    assert benchmark_parser("tradeoff").parse_args(["tradeoff", "--folder=~/a"]).folder == home / "a"
    assert benchmark_parser("scaling").parse_args(["scaling", "--json=~/a.json"]).json == home / "a.json"
    (home / "mine.py").write_text(Path("configs/distill.py").read_text())
    assert load_config("~/mine.py:smoke", []).seed == load_config("configs/distill.py:smoke", []).seed


def test_a_work_directory_at_home(home, smoke_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(smoke_config(stages=("data",)), "~/runs/x")
    assert (home / "runs" / "x" / "config.json").exists() and not (tmp_path / "~").exists()


def test_a_run_without_a_home_goes_on(homeless, smoke_config, tmp_path, capsys):
    import jax

    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        run(smoke_config(stages=("data",)), str(tmp_path / "x"))
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert "compiled programs are not kept: there is no home folder here" in capsys.readouterr().out


@pytest.mark.slow
def test_devices_that_are_not_there_are_told_in_a_line(repository):
    program = "from accdistill_jax.runtime.device_access import take_devices\ntake_devices()"
    for name in ("cuda", "nonsense"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=repository,
            env=os.environ | {"JAX_PLATFORMS": name},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.stderr.splitlines()[-1].startswith(
            "accdistill_jax.errors.UserError: JAX cannot use this machine's devices: "
        )
        assert f"JAX_PLATFORMS={name} asks for them: name others, as JAX_PLATFORMS=cpu, or unset it" in done.stderr


@pytest.mark.parametrize("command", ["benchmark step", "benchmark scaling", "reproduce --preset=smoke"])
@pytest.mark.slow
def test_every_command_tells_it(repository, tmp_path, command):
    name, *rest = command.split()
    rest += [f"--out={tmp_path / 'out'}"] if name == "reproduce" else []
    done = subprocess.run(
        [sys.executable, "-m", f"accdistill_jax.{name}", *rest],
        cwd=repository,
        env=os.environ | {"JAX_PLATFORMS": "nonsense"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "JAX_PLATFORMS=nonsense" in done.stderr


@pytest.mark.parametrize(
    "opened", [ad.load, ad.open_store, lambda path: ad.load("synthetic-small").embed_recording(path)]
)
@pytest.mark.parametrize("address", ["gs://b/run", "s3://b/run/student"])
def test_an_address_as_a_path_lost_a_slash_and_the_error_says_so(opened, address):
    with pytest.raises(UserError) as raised:
        opened(Path(address))
    said = f"{Path(address)}: an address has two slashes, {address}: pathlib.Path keeps one of them; give the address as a str"
    assert str(raised.value) == said


def test_a_folder_may_be_called_as_a_scheme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="gs:/b: an address has two slashes, gs://b: give both"):
        expanded("gs:/b")
    (tmp_path / "gs:").mkdir()
    assert expanded("gs:/b") == "gs:/b" and expanded(Path("gs:/b")) == "gs:/b"
    assert expanded("gs://b") == "gs://b" and expanded("file:///tmp/x") == "/tmp/x"
