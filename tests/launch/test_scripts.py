"""Checks of all of launch/: the shell scripts are clean and have help, and the locks agree with each other."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
SHELL = ["tpu_pod", "tpu_worker", "gke", "slurm", "common.sh"]
COMMANDS = ["local", "tpu_pod", "gke", "slurm"]


def run(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, stdin=subprocess.DEVNULL, timeout=60)


@pytest.mark.parametrize("name", SHELL)
def test_shellcheck_finds_nothing(name):
    shellcheck = shutil.which("shellcheck") or shutil.which("shellcheck", path=Path(sys.executable).parent)
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    found = run(shellcheck, "--external-sources", f"launch/{name}")
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_complete_and_fits_a_screen(name):
    shown = run(f"launch/{name}", "--help")
    assert shown.returncode == 0 and not shown.stderr
    assert 15 < len(shown.stdout.splitlines()) < 50
    text = (LAUNCH / name).read_text()
    options = set(re.findall(r"^ *(--[a-z-]+)\) ", text, re.MULTILINE)) | set(
        re.findall(r'add\(\s*"(--[a-z-]+)"', text)
    )
    assert len(options) >= 6
    assert not [option for option in options if option not in shown.stdout]


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("arguments", [[], ["--no-such-option"], ["nonsense"], ["--nodes"], ["--"]])
def test_wrong_usage_is_one_line_and_status_2(name, arguments):
    shown = run(f"launch/{name}", *arguments)
    assert shown.returncode == 2
    assert len(shown.stderr.splitlines()) == 1 and "error:" in shown.stderr
    assert not shown.stdout


def pins(lock: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", lock.read_text(), re.MULTILINE))


@pytest.mark.parametrize("name, extra", [("tpu", "libtpu"), ("cuda", "jax-cuda12-plugin")])
def test_accelerator_locks_agree_with_the_main_lock(name, extra):
    lock = LAUNCH / f"requirements-{name}.lock"
    main, accelerator = pins(ROOT / "requirements.lock"), pins(lock)
    assert accelerator["jax"] == main["jax"] and accelerator["jaxlib"] == main["jaxlib"]
    assert {k: v for k, v in accelerator.items() if main.get(k, v) != v} == {}
    assert extra in accelerator
    text = lock.read_text()
    assert "://" not in text
    blocks = re.split(r"^(?=[a-z])", text, flags=re.MULTILINE)[1:]
    assert all("--hash=sha256:" in block for block in blocks)


def test_the_image_starts_python_as_its_first_process():
    text = (LAUNCH / "Dockerfile").read_text()
    assert 'ENTRYPOINT ["python", "-m", "accdistill_jax.main"]' in text
    assert re.search(r"^USER (?!root)", text, re.MULTILINE)
    for copied in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE):
        for path in copied.split():
            assert (ROOT / path).exists(), path
