"""A store with a large table: the made-up one is whole, and its steps are measured."""

import json
import sys

import numpy as np
import pytest

from accdistill_jax.benchmark import __main__ as command
from accdistill_jax.benchmark.made_up.large_table import write_large_store
from accdistill_jax.data.store.content import store_hashes
from accdistill_jax.data.store.store import Store

ROWS = 2500  # three shards


def test_the_made_up_store_is_whole_and_its_signals_take_no_room(tmp_path):
    write_large_store(tmp_path / "store", rows=ROWS)
    store = Store.open(tmp_path / "store", verify=True)
    assert store.num_segments == ROWS and len(store.participants) == 9
    assert not store.read(np.arange(ROWS))["accel"].any()
    assert len(np.unique(store_hashes(store, say=pytest.fail))) == 2 * ROWS
    shards = [path for path in (tmp_path / "store/accel/c").rglob("0") if path.is_file()]
    assert sum(path.is_symlink() for path in shards) == 1 and len(shards) == 3


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the memory is read as Linux reports it")
def test_steps_are_measured(tmp_path, capsys):
    record = tmp_path / "record.json"
    assert command.main(["table", f"--rows={ROWS}", f"--folder={tmp_path}", f"--json={record}"]) == 0
    steps = json.loads(record.read_text())["steps"]
    assert all(0 < step["held_mb"] <= step["peak_mb"] for step in steps.values())
    assert all(name in capsys.readouterr().out for name in list(steps)[-1:])
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]
