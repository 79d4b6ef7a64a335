"""Mirrors of in-memory addresses, a store that fails on demand, and a run's folder at two moments."""

import itertools
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from accdistill_jax.storage import folder as folders
from accdistill_jax.storage import mirror_files, mirror_store
from accdistill_jax.storage.checkpoint import Checkpointer
from accdistill_jax.storage.export import save_params
from accdistill_jax.storage.folder import RemoteFolder
from accdistill_jax.storage.mirror import Mirror
from tests.storage.mirror.run_folders import state, write

_number = itertools.count()


@pytest.fixture
def url() -> str:
    return f"memory://bucket-{next(_number)}/run"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(mirror_store, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(mirror_store, "LONGEST_PAUSE_S", 0.01)


@pytest.fixture
def opened():
    """opened(url, folder, ...) -> a silent Mirror after its first pull; closed after the test."""
    mirrors = []

    def make(url, folder, **options):
        mirrors.append(Mirror(url, folder, **{"say": lambda line: None, "patience_s": 0.05} | options))
        mirrors[-1].pull()
        return mirrors[-1]

    yield make
    for one in mirrors:
        one.close()


class Store:
    """Wraps every call that changes a store or the journal: counts calls, fails, or simulates a kill."""

    def __init__(self, monkeypatch):
        self.calls: list[str] = []
        self.before = lambda number, what: None
        self.after = lambda number, what: None
        self._count = itertools.count()
        self._lock = threading.Lock()
        for module, owner, name in (
            (folders, RemoteFolder, "write"),
            (folders, RemoteFolder, "remove"),
            (mirror_store, mirror_store, "write_if_unchanged"),
            (mirror_files, mirror_files, "write_atomically"),
        ):
            monkeypatch.setattr(owner, name, self._wrapped(getattr(owner, name), f"{module.__name__}.{name}"))

    def _wrapped(self, function, what):
        def call(*arguments, **options):
            with self._lock:
                number = next(self._count)
                self.calls.append(what)
            self.before(number, what)
            value = function(*arguments, **options)
            self.after(number, what)
            return value

        return call

    def reset(self) -> None:
        self.calls, self._count = [], itertools.count()
        self.before = self.after = lambda number, what: None


@pytest.fixture
def store(monkeypatch) -> Store:
    return Store(monkeypatch)


@pytest.fixture(scope="session")
def two_states(tmp_path_factory) -> tuple[Path, Path]:
    """A run's folder after step 2, and after step 4, an export and the removal of old checkpoints."""
    first, second = tmp_path_factory.mktemp("states") / "first", tmp_path_factory.mktemp("states") / "second"
    with Checkpointer(first / "student" / "checkpoints", keep_last=1) as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, state(step))
    write(first, config_json="{}", metrics__student_jsonl="1\n2\n", data__synthetic="never copied")
    shutil.copytree(first, second)
    with Checkpointer(second / "student" / "checkpoints", keep_last=1) as checkpointer:
        for step in (3, 4):
            checkpointer.save(step, state(step))
    save_params(second / "student" / "export", {"w": np.ones(3, np.float32)}, {"kind": "student"})
    write(second, metrics__student_jsonl="1\n2\n3\n4\n", report__made_from="key")
    return first, second
