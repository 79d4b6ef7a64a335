"""Reading of a store in an object store: the settings reach it, and have effect."""

import time
from pathlib import Path

import numpy as np
import pytest

from accdistill_jax.benchmark.made_up.object_store import BUCKET, serve_folder
from accdistill_jax.config.schema import DataConfig
from accdistill_jax.data.store import opening
from accdistill_jax.data.store.store import RemoteReading, Store
from accdistill_jax.stages import context

LATENCY_S = 0.03
ROWS = np.arange(8)  # neighbours, fetched together: a request for each signal, after one each for the shard's index


@pytest.fixture
def url(make_store, people, monkeypatch):
    """Address of a store behind a service that takes its time over every request."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "none")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "none")
    folder = Path(make_store("s", people).path).parent
    with serve_folder(folder, latency_s=LATENCY_S) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        yield f"s3://{BUCKET}/s"


def seconds(store: Store) -> float:
    begin = time.monotonic()
    store.read(ROWS)
    return time.monotonic() - begin


def test_concurrency(url):
    one, many = (seconds(Store.open(url, remote=RemoteReading(concurrency=number, cache_mb=1))) for number in (1, 32))
    assert one > 4 * LATENCY_S > many > 2 * LATENCY_S


@pytest.mark.parametrize(("cache_mb", "again"), [(0, True), (17, False)])
def test_cache(url, cache_mb, again):
    store = Store.open(url, remote=RemoteReading(concurrency=32, cache_mb=cache_mb))
    assert seconds(store) > LATENCY_S
    assert (seconds(store) > LATENCY_S) == again


def test_the_config_sets_both(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(context.Store, "open", lambda path, remote: asked.append(remote))
    data = DataConfig()
    assert RemoteReading() == RemoteReading(data.read_concurrency, data.cache_mb), (
        "the defaults are those of the config"
    )
    opening.open_configured_store(str(tmp_path), key="data.stores", data=DataConfig(read_concurrency=5, cache_mb=6))
    assert asked == [RemoteReading(concurrency=5, cache_mb=6)]
