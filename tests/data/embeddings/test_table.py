"""Tables of embeddings: three formats, one fingerprint, a line for everything wrong."""

import csv
import datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from accdistill_jax.data.embeddings.table import read_embedding_table
from accdistill_jax.errors import UserError

START = 1_714_557_600.0  # 2024-05-01T10:00:00Z


def content(minutes: int = 6, width: int = 3) -> dict:
    """Columns of a table of two people."""
    rng = np.random.default_rng(0)
    return {
        "participant": np.repeat(["a", "b"], minutes // 2),
        "start": np.tile(START + 60.0 * np.arange(minutes // 2), 2),
        "embedding": rng.normal(size=(minutes, width)).astype(np.float32),
    }


def write_parquet(path, columns, *, numbered=False, as_time=True) -> str:
    arrays = {name: pa.array(values.tolist()) for name, values in columns.items() if name not in ("start", "embedding")}
    if "start" in columns:
        starts = pa.array((columns["start"] * 1e6).astype(np.int64)).cast(pa.timestamp("us", "UTC"))
        arrays["start"] = starts if as_time else pa.array(columns["start"])
    if numbered:
        arrays |= {f"embedding_{k}": pa.array(values) for k, values in enumerate(columns["embedding"].T)}
    else:
        arrays["embedding"] = pa.array([list(map(float, row)) for row in columns["embedding"]], pa.list_(pa.float32()))
    pq.write_table(pa.table(arrays), path)
    return str(path)


def write_csv(path, columns) -> str:
    width = columns["embedding"].shape[1]
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["participant", "note", "start", *(f"embedding_{k}" for k in reversed(range(width)))])
        for who, start, row in zip(columns["participant"], columns["start"], columns["embedding"], strict=True):
            when = datetime.datetime.fromtimestamp(start, datetime.timezone(datetime.timedelta(hours=2))).isoformat()
            writer.writerow([who, "x", when, *(repr(float(value)) for value in row[::-1])])
    return str(path)


def write_npz(path, columns) -> str:
    np.savez(path, **columns)
    return str(path)


def test_formats_and_orders_of_one_content_have_one_fingerprint(tmp_path):
    columns = content()
    shuffled = {name: values[[4, 0, 5, 1, 3, 2]] for name, values in columns.items()}
    paths = [
        write_parquet(tmp_path / "a.parquet", columns),
        write_parquet(tmp_path / "b.parquet", shuffled, numbered=True, as_time=False),
        write_csv(tmp_path / "c.csv", shuffled),
        write_npz(tmp_path / "d.npz", columns),
        write_npz(
            tmp_path / "e.npz", columns | {"start": (columns["start"] * 1000).astype(np.int64).astype("datetime64[ms]")}
        ),
    ]
    tables = [read_embedding_table(path) for path in paths]
    assert len({table.fingerprint for table in tables}) == 1
    np.testing.assert_array_equal(tables[0].embedding, columns["embedding"])
    np.testing.assert_array_equal(tables[2].start_unix_s, shuffled["start"])
    assert tables[0].width == 3 and tables[0].by_time
    changed = columns | {"embedding": columns["embedding"] + np.float32(1e-6)}
    assert read_embedding_table(write_npz(tmp_path / "f.npz", changed)).fingerprint != tables[0].fingerprint


def test_a_table_by_segment(tmp_path):
    columns = {"segment": np.arange(4), "store": np.repeat("0123456789abcdef", 4), "embedding": np.ones((4, 2))}
    table = read_embedding_table(write_npz(tmp_path / "s.npz", columns))
    assert not table.by_time and table.segment.tolist() == [0, 1, 2, 3]
    assert table.row_in_words(1) == "segment 1 of store 0123456789abcdef"


def changed(**changes) -> dict:
    return {name: values for name, values in (content() | changes).items() if values is not None}


def with_bad_vector() -> np.ndarray:
    values = content()["embedding"]
    values[[2, 4], 1] = np.nan
    return values


SEGMENTS = {"participant": None, "start": None, "segment": np.arange(6), "store": np.repeat("0" * 16, 6)}


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (changed(embedding=with_bad_vector()), r"row 3: the embedding has NaN or infinite values \(2 such rows\)"),
        (changed(start=np.full(6, START)), r"rows 1 and 2 are both 'a' at 2024-05-01T10:00:00Z \(4 such pairs\)"),
        (changed(start=None), "no column start; its columns are participant"),
        (changed(participant=None), "no column participant"),
        (changed(start=content()["start"] * 1000), "which are no unix seconds; divide milliseconds by 1000"),
        (changed(start=np.array(["1 May"] * 6)), "row 1: start '1 May' is neither a date"),
        (changed(participant=np.array(["a", "", "a", "b", "b", "b"])), "row 2: participant is empty"),
        (changed(embedding=None), "no array embedding; its arrays are"),
        (changed(embedding=np.ones(6)), r"embedding is float64\[6\]; give numbers"),
        (changed(embedding=np.ones((5, 2))), r"participant has shape \[6\], embedding has 5 rows"),
        (changed(embedding=np.ones((6, 0))), "it has no rows"),
        (changed(**SEGMENTS | {"store": None}), "has segment, but no store; add the fingerprint"),
        (changed(**SEGMENTS | {"start": np.arange(6.0)}), "has both segment and start; keep one"),
        (changed(**SEGMENTS | {"store": np.repeat("0123", 6)}), "row 1: store '0123' is shorter than 8 digits"),
        (changed(**SEGMENTS | {"segment": np.full(6, 2)}), "rows 1 and 2 are both segment 2 of store 0000"),
    ],
)
def test_unusable_content_is_a_line(tmp_path, columns, line):
    with pytest.raises(UserError, match=line) as caught:
        read_embedding_table(write_npz(tmp_path / "t.npz", columns))
    assert "\n" not in str(caught.value) and "t.npz: " in str(caught.value)


def test_vectors_of_two_widths_are_a_line(tmp_path):
    table = pa.table({"participant": ["a", "a"], "start": [0.0, 60.0], "embedding": [[1.0, 2.0], [1.0]]})
    pq.write_table(table, tmp_path / "w.parquet")
    with pytest.raises(UserError, match="row 2: the embedding has 1 numbers, the first row has 2"):
        read_embedding_table(str(tmp_path / "w.parquet"))


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("t.txt", b"", "no table of embeddings; its name must end in .parquet"),
        ("t.csv", b"participant,start,embedding_0\n", "it has no rows"),
        ("t.csv", b"participant,start,embedding_0\na,0\n", "row 1 has 2 cells, the first line has 3"),
        ("t.csv", b"participant,start,embedding_0\na,0,x\n", "row 1: the embedding has a cell that is no number"),
        ("t.csv", b"participant,start,embedding_0,embedding_2\na,0,1,1\n", "it has embedding_2 but not all before it"),
        ("t.csv", b"participant,start,e0\na,0,1\n", "it has no embedding; write the vector as columns embedding_0"),
        ("t.csv", b"participant,start,embedding_0\na,\xff,1\n", "cannot be read as UTF-8"),
        ("t.parquet", b"PAR1", "cannot be read as a Parquet table"),
        ("t.npz", b"PK", "cannot be read as npz"),
        ("none.npz", None, "cannot be read .No such file"),
    ],
)
def test_damaged_files_are_a_line(tmp_path, name, text, line):
    if text is not None:
        (tmp_path / name).write_bytes(text)
    with pytest.raises(UserError, match=line):
        read_embedding_table(str(tmp_path / name))


def test_pickles_in_npz_are_not_read(tmp_path):
    np.savez(
        tmp_path / "p.npz", participant=np.array([print, "b"], dtype=object), start=[0, 1], embedding=np.ones((2, 2))
    )
    with pytest.raises(UserError, match="cannot be read as npz .*allow_pickle=False"):
        read_embedding_table(str(tmp_path / "p.npz"))
