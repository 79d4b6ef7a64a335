"""Passwords in addresses: refused before they are kept anywhere, and never printed."""

import subprocess
import sys

import pytest

from accdistill_jax.config.convert import changed
from accdistill_jax.config.load import load_config
from accdistill_jax.errors import UserError, refuse_password, without_passwords
from accdistill_jax.files import is_address
from accdistill_jax.storage.folder import open_folder

ADDRESSES = [
    "s3://user:s3cret@bucket/store",
    "gs://user:s3cret@bucket",
    "http://user:s3cret@host:80/x",
    "https://u:s3cret@host",
    "s3://:s3cret@bucket",
    "s3://user:s3cret/with@slash@bucket/x",
    "file://user:s3cret@host/x",
    "memory://u:s3cret@x",
    "s3://key-s3cret@bucket/x",
]
HARMLESS = [
    "s3://bucket/a@b",
    "gs://bucket/a:b@c",
    "/local/a:b@c",
    "http://host:80/x",
    "s3://bucket",
    "a@b:c",
    "file:///home/me@work",
    "mem://",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_password_is_refused_wherever_an_address_is_taken(address):
    for take in (refuse_password, open_folder, is_address):
        with pytest.raises(UserError, match="an address must not hold a user or password") as caught:
            take(address)
        assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("address", HARMLESS)
def test_other_addresses_are_as_they_were(address):
    refuse_password(address)
    assert without_passwords(f"{address}: {address}") == f"{address}: {address}"


def test_no_error_holds_a_password():
    text = "'s3://user:s3cret@bucket/x' and s3://bucket/a@b; \"http://u:s3cret@h\""
    assert str(UserError(text)) == "'s3://***@bucket/x' and s3://bucket/a@b; \"http://***@h\""
    assert UserError(5, "x").args == (5, "x")


@pytest.mark.parametrize("key", ["data.stores", "data.unseen_stores", "teacher.path", "runtime.compilation_cache"])
def test_a_config_with_a_password_is_refused(key):
    address = "s3://u:s3cret@b/x"
    with pytest.raises(UserError, match="must not hold a user or password") as caught:
        changed(load_config("distill:smoke"), {key: (address,) if key.startswith("data") else address})
    assert "s3cret" not in str(caught.value)


ADDRESS = "s3://user:s3cret@bucket/x"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("accdistill_jax.main", ["--config=configs/distill.py:smoke", f"--workdir={ADDRESS}"]),
        ("accdistill_jax.main", ["--config=configs/distill.py:smoke", f"--config.data.stores=('{ADDRESS}',)"]),
        ("accdistill_jax.main", ["--config=configs/distill.py:smoke", f"--config.seed={ADDRESS}"]),
        ("accdistill_jax.main", ["--config=configs/distill.py:smoke", ADDRESS]),
        ("accdistill_jax.main", [f"--config={ADDRESS}"]),
        ("accdistill_jax.data.prepare", ["show", ADDRESS]),
        ("accdistill_jax.data.prepare", ["show", "x", ADDRESS]),
        ("accdistill_jax.data.prepare", ["synthetic", "--out", ADDRESS, "--quiet"]),
        ("accdistill_jax.data.prepare", ["synthetic", "--out", "x", "--workers", ADDRESS]),
        ("accdistill_jax.storage.mirror", ["ls", ADDRESS]),
        ("accdistill_jax.storage.mirror", ["ls", "x", ADDRESS]),
    ],
)
def test_no_command_prints_or_keeps_a_password(repository, tmp_path, module, arguments):
    if not any("workdir" in argument for argument in arguments) and module.endswith("main"):
        arguments = [*arguments, f"--workdir={tmp_path}/run"]
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=repository, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2 and "error: " in done.stderr and "Traceback" not in done.stderr
    assert "s3cret" not in done.stdout + done.stderr
    assert not any("s3cret" in path.read_text() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize("address", ["http://host/store?X-Signature=s3cret", "https://host/store"])
def test_a_store_over_http_is_refused_at_once(address):
    with pytest.raises(UserError, match=r"^https?://host/store: a store cannot be read over http; use gs://") as caught:
        open_folder(address)
    assert "s3cret" not in str(caught.value)
