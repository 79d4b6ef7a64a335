"""Columns of an open store: decoded when they are used, and texts as numbers."""

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from accdistill_jax.data.store.columns import SegmentColumns
from accdistill_jax.data.store.store import Store

ROWS = 1000


@pytest.fixture
def columns() -> SegmentColumns:
    people = np.array(["zoe", "anna", "ben"], object)[np.arange(ROWS) * 3 // ROWS]
    people[-1] = "zoe"
    table = pa.table({"participant": pa.array(people).dictionary_encode(), "hr_bpm": np.arange(ROWS, dtype=np.float32)})
    file = io.BytesIO()
    pq.write_table(table, file, row_group_size=70)  # texts have a dictionary in each group
    return SegmentColumns(file, where="segments.parquet", whole=("participant",), rows=ROWS)


def test_texts_are_numbered_in_the_order_of_their_first_rows(columns):
    people, person = columns.codes("participant")
    assert people == ["zoe", "anna", "ben"] and person.dtype == np.int32
    assert [people[number] for number in person] == columns["participant"].tolist()
    assert columns.is_text("participant") and not columns.is_text("hr_bpm")


def test_it_is_a_mapping_that_can_be_changed(columns):
    assert list(columns) == ["participant", "hr_bpm"] and len(columns) == columns.num_rows // 500
    assert columns["hr_bpm"] is columns["hr_bpm"] and columns.get("nothing") is None and "nothing" not in columns
    columns["participant"] = np.full(ROWS, "one", object)
    assert columns.codes("participant")[0] == ["one"]
    del columns["participant"]
    assert "participant" not in columns
    with pytest.raises(KeyError):
        columns["participant"]


def test_many_threads_decode_a_column_once(columns):
    with ThreadPoolExecutor(8) as pool:
        values = list(pool.map(lambda _: columns["hr_bpm"], range(32)))
    assert all(value is values[0] for value in values)


def test_a_store_that_is_replaced_while_it_is_open_keeps_its_table(whole):
    store = Store.open(whole)
    expected = Store.open(whole).segments["hr_bpm"]
    table = Path(whole) / "segments.parquet"
    table.unlink()
    table.write_bytes(b"another table")
    np.testing.assert_array_equal(store.segments["hr_bpm"], expected)
