"""The whole suite runs on four fake CPU devices, with rank promotion forbidden and warnings as errors."""

import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

# A shell's background job and nohup have signals ignored, and so would have every process that a test starts.
for number, usual in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGTERM, signal.SIG_DFL),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, usual)

DEVICES = 4
TESTS = Path(__file__).resolve().parent
REPOSITORY = TESTS.parent

_CACHE = Path(os.environ.get("XDG_CACHE_HOME", tempfile.gettempdir())) / f"accdistill_jax-tests-{os.getuid()}"
# Set before jax is imported, and inherited by the entry points that tests start.
_DEVICE_FLAG = f"--xla_force_host_platform_device_count={DEVICES}"
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DEVICE_FLAG}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
os.environ["MPLBACKEND"] = "agg"

import jax  # noqa: E402

from tests import left_behind  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_sessionstart(session):
    """A suite on one device would prove nothing about collectives."""
    if jax.device_count() != DEVICES:
        raise pytest.UsageError(f"{jax.device_count()} devices instead of {DEVICES}: jax was imported before conftest")


# Tests that start no process and train no run, or little: `-m quick` selects them.
QUICK = ("config", "data/preprocessing", "data/store", "inputs", "models", "objectives", "training")
HEAVY_FIXTURES = {"copy", "finished"}


def pytest_collection_modifyitems(config, items):
    """Marks long tests as slow too, and quick ones as quick; keeps a share of the slow ones where one is set.

    ACCDISTILL_SLOW_SHARE=K/N keeps the slow tests of every Nth file from the Kth on (from 0), in the order of their names.
    """
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.slow)
        folder = item.path.parent.relative_to(TESTS).as_posix()
        light = not item.get_closest_marker("slow") and HEAVY_FIXTURES.isdisjoint(item.fixturenames)
        if light and folder.startswith(QUICK):
            item.add_marker(pytest.mark.quick)
    if share := os.environ.get("ACCDISTILL_SLOW_SHARE"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        left_out = set(slow) - set(in_share(slow, share))
        config.hook.pytest_deselected(items=[item for item in items if item in left_out])
        items[:] = [item for item in items if item not in left_out]


def in_share(items, share: str) -> list:
    """Those of `items` whose file is of the share "K/N"."""
    turn, turns = (int(part) for part in share.split("/"))
    if not 0 <= turn < turns:
        raise pytest.UsageError(f"ACCDISTILL_SLOW_SHARE={share}: not K/N with K from 0 to N - 1")
    files = sorted({item.path for item in items})
    return [item for item in items if files.index(item.path) % turns == turn]


@pytest.fixture(autouse=True)
def no_process_is_left_behind(request):
    """Ends the processes that a test has started, and theirs, when it is over: one that fails does not come to its own end of them."""
    mark = os.environ[left_behind.MARK] = f"{os.getpid()} {request.node.nodeid}"
    yield
    del os.environ[left_behind.MARK]
    left_behind.end(mark)


@pytest.fixture
def repository() -> Path:
    """Root of the checkout; entry points run with it as their working directory."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real recordings; skips where this machine has none."""
    folder = Path(os.environ.get("ACCDISTILL_SHARED_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real recordings: set ACCDISTILL_SHARED_DATA ({folder} is missing)")
    return folder


@pytest.fixture(scope="session")
def smoke_store(tmp_path_factory) -> Path:
    """A synthetic store of 96 minutes of 12 participants with two PPG channels; not to be changed."""
    from accdistill_jax.data.store.split import SplitRule
    from accdistill_jax.data.synthetic.synthetic import SyntheticSettings, write_store

    path = tmp_path_factory.mktemp("stores") / "smoke"
    population = SyntheticSettings(participants=12, segments_per_participant=8, seed=0, ppg_channels=2)
    write_store(path, population, split=SplitRule(fractions=(0.5, 0.25, 0.25)))
    return path


@pytest.fixture
def smoke_config(smoke_store):
    """smoke_config(**{"dotted.key": value}) -> the smoke preset on `smoke_store`, with the student's objective given as on the command line."""
    from accdistill_jax.config.convert import changed
    from accdistill_jax.config.load import load_config

    def make(**changes):
        chosen = changes.get("student.objective")
        base = load_config("distill:smoke", [f"--config.student.objective={chosen}"] if chosen else [])
        return changed(base, {"data.stores": (str(smoke_store),)} | changes)

    return make


@pytest.fixture(scope="session")
def finished(smoke_store, tmp_path_factory) -> Path:
    """Work directory of a finished run of the smoke preset on `smoke_store`; not to be changed, see `copy`."""
    from accdistill_jax.config.convert import changed
    from accdistill_jax.config.load import load_config
    from accdistill_jax.run import run

    workdir = tmp_path_factory.mktemp("finished")
    run(changed(load_config("distill:smoke"), {"data.stores": (str(smoke_store),)}), workdir)
    return workdir


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    """A copy of that work directory."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


@pytest.fixture
def no_training(monkeypatch):
    """Makes training fail."""

    def refuse(*arguments, **options):
        raise AssertionError("a finished stage was trained again")

    monkeypatch.setattr("accdistill_jax.stages.fit.train", refuse)
