"""Files of Zarr arrays: byte for byte what TensorStore writes, whatever the portions."""

import json

import numpy as np
import pytest
import tensorstore as ts
from hypothesis import given, settings
from hypothesis import strategies as st

from accdistill_jax.data.store.shards import ArrayFiles, ArrayLayout

SHARDED = ArrayLayout((21, 5, 2), "int16", 8, True, "a.u.")
PLAIN = ArrayLayout((21, 3), "float32", 16, False, "g")


def rows_of(layout: ArrayLayout) -> np.ndarray:
    rows = np.random.default_rng(0).normal(0, 9000, layout.shape).astype(layout.dtype)
    rows[4] = 0  # a row that equals the fill value is stored all the same
    return rows


def written(layout: ArrayLayout, portions: list[int]) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    rows, at = rows_of(layout), 0
    with ArrayFiles({"x": layout}, lambda name, content: files.update({name: bytes(content)})) as arrays:
        for portion in portions:
            arrays.push("x", rows[at : at + portion])
            at += portion
        arrays.push("x", rows[at:])
    return files


def by_tensorstore(layout: ArrayLayout, folder) -> dict[str, bytes]:
    array = ts.open(
        {
            "driver": "zarr3",
            "kvstore": f"file://{folder}/x/",
            "metadata": layout.metadata(),
            "store_data_equal_to_fill_value": True,
        },
        create=True,
    ).result()
    array.write(rows_of(layout)).result()
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("layout", [SHARDED, PLAIN], ids=["sharded", "plain"])
def test_bytes_are_those_of_tensorstore(layout, tmp_path):
    expected, files = by_tensorstore(layout, tmp_path), written(layout, [])
    assert files.keys() == expected.keys() and len(files) == (4 if layout.sharded else 3)
    for name in files:
        if name.endswith("zarr.json"):
            assert json.loads(files[name]) == json.loads(expected[name])
        else:
            assert files[name] == expected[name], name


@given(st.lists(st.integers(0, 21), max_size=6), st.sampled_from([SHARDED, PLAIN]))
@settings(max_examples=40, deadline=None)
def test_bytes_do_not_depend_on_the_portions(portions, layout):
    assert written(layout, portions) == written(layout, [])


@pytest.mark.parametrize("damage", [-5, -40])
def test_a_damaged_index_is_noticed_by_other_readers(tmp_path, damage):
    for name, content in written(SHARDED, []).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    array = ts.open({"driver": "zarr3", "kvstore": f"file://{tmp_path}/x/", "recheck_cached_data": True}).result()
    np.testing.assert_array_equal(array.read().result(), rows_of(SHARDED))
    file = tmp_path / "x/c/1/0/0"
    content = bytearray(file.read_bytes())
    content[damage] ^= 1
    file.write_bytes(content)
    fresh = ts.open({"driver": "zarr3", "kvstore": f"file://{tmp_path}/x/"}, context=ts.Context()).result()
    with pytest.raises(ValueError, match="[Dd]igest mismatch|CRC"):
        fresh[8:16].read().result()


def test_a_file_that_cannot_be_written_is_reported():
    def refuse(name, content):
        if name.endswith("c/1/0/0"):
            raise OSError("full")

    with pytest.raises(OSError, match="full"), ArrayFiles({"x": SHARDED}, refuse) as arrays:
        arrays.push("x", rows_of(SHARDED))
