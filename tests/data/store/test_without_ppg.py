"""A store of acceleration alone: written, opened, read, verified, compared and shown like any other."""

import io
from pathlib import Path

import numpy as np
import pytest

from accdistill_jax.data.prepare.__main__ import main
from accdistill_jax.data.store.content import store_hashes
from accdistill_jax.data.store.manifest import CONTENT, malformed_key, verify_checksums
from accdistill_jax.data.store.separation import check_separation
from accdistill_jax.data.store.split import SplitRule
from accdistill_jax.data.store.store import Store
from accdistill_jax.data.store.units import decode_unit, encode_unit
from accdistill_jax.data.store.writer import StoreWriter
from accdistill_jax.errors import UserError

ALL_TRAIN = SplitRule(fractions=(1, 0, 0))


@pytest.fixture
def store(make_store, small_shards, people) -> Store:
    return make_store("s", people, channels=0)


def test_the_acceleration_is_that_of_a_store_with_ppg(store, make_store, people):
    paired, rows = make_store("paired", people), np.array([3, 17, 0, 3])
    assert store.signals == ("accel",) and store.channels == {"ppg": (), "accel": ("x", "y", "z")}
    assert paired.signals == ("ppg", "accel")
    batch, expected = store.read(rows), paired.read(rows)
    assert set(batch) == {"accel", "accel_scale", "accel_offset"}
    for name, values in batch.items():
        np.testing.assert_array_equal(values, expected[name])
    np.testing.assert_array_equal(store.read_signals(rows)["accel"], paired.read_signals(rows)["accel"])
    assert not (Path(store.path) / "ppg").exists() and verify_checksums(store.path) > 0
    assert Store.open(store.path, verify=True).fingerprint == store.fingerprint


def test_a_damaged_segment_is_noticed(store):
    shard = Path(store.path) / "accel/c/1/0/0"
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    opened = Store.open(store.path)
    with pytest.raises(UserError, match="accel/c/1/0/0: segment 8 is not what was written there"):
        opened.read(np.array([8]))
    with pytest.raises(UserError, match="accel/c/1/0/0 does not match its checksum"):
        verify_checksums(store.path)


def test_hashes_know_the_acceleration_again(store, make_store, people):
    kept = store_hashes(store, say=print)
    assert not kept[:, 0].any() and kept[:, 1].all()
    (Path(store.path) / CONTENT).unlink()
    np.testing.assert_array_equal(store_hashes(store, say=print), kept)
    paired = make_store("paired", people, split=ALL_TRAIN)
    with pytest.raises(UserError, match="in two splits|on two sides|test"):
        check_separation([paired], [store], same_names="different people")


def test_a_recording_given_twice_is_refused(make_batch, settings, tmp_path):
    writer = StoreWriter(tmp_path / "s", settings=settings, source="bench")
    for name in ("a", "b"):
        writer.add(name, make_batch("anna", 3, channels=0))
    with pytest.raises(
        UserError, match="a recording was given twice: a and b, both of participant anna, share 3 segments"
    ):
        writer.commit(["a", "b"])


@pytest.mark.parametrize("order", [("with", "without"), ("without", "with")])
def test_recordings_with_and_without_ppg_do_not_mix(make_batch, settings, tmp_path, order):
    writer = StoreWriter(tmp_path / "s", settings=settings, source="bench")
    writer.add("with", make_batch("anna", 3))
    writer.add("without", make_batch("ben", 3, channels=0))
    with pytest.raises(UserError, match="ppg channels differ: .* has none.*separate stores.*--ppg-channels none"):
        writer.commit(order)


def test_a_manifest_that_lists_no_ppg_array_must_have_no_ppg_channel(store, make_store, people):
    assert malformed_key(store.manifest) is None
    assert malformed_key(store.manifest | {"channels": {"ppg": ["a"], "accel": ["x", "y", "z"]}}) == "files"
    assert malformed_key(store.manifest | {"channels": {"ppg": [], "accel": []}}) == "channels"


def test_a_staged_unit_is_read_back(make_batch):
    content = encode_unit("anna", make_batch("anna", 2, channels=0), samples=640)
    unit = decode_unit(io.BytesIO(content), signals=True)
    assert set(unit.arrays) == {"accel", "accel_scale", "accel_offset"} and unit.content[:, 1].all()
    earlier = decode_unit(io.BytesIO(content[:-73] + b"\0\0"), signals=True)  # without the file's checksum
    np.testing.assert_array_equal(earlier.arrays["accel"], unit.arrays["accel"])


def test_it_is_shown_and_drawn(store, tmp_path, capsys):
    plot = tmp_path / "segments.png"
    assert main(["show", store.path, "--plot", str(plot), "--segments", "2"]) == 0
    assert "accel: x, y, z (g); no PPG" in capsys.readouterr().out
    assert plot.stat().st_size > 5000
