"""Tables of the generic layout: each cell becomes the right number, a missing sample, or an error with its line and text."""

import bz2
import gzip
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from accdistill_jax.data.recordings.tables.decimal_comma import split_numbers
from accdistill_jax.data.recordings.tables.table import Layout, Table
from accdistill_jax.errors import UserError


def table(folder, content, wanted, stamp=None, name="t.csv", **layout):
    path = Path(folder) / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Table(path, wanted, stamp, Layout(**layout))


@pytest.mark.parametrize(
    "cell", ["", "nan", "NaN", "-nan", "+nan", "NAN", "NA", "n/a", "null", "None", '""', " ", "-nan(ind)", "#N/A"]
)
@pytest.mark.parametrize("row", [0, 2, 4])
def test_missing_cells(tmp_path, cell, row):
    cells = ["1", "2.5", "-3", "+4", " 5 "]
    cells[row] = cell
    lines = "".join(f"{value},7\n" for value in cells)
    expected = np.array([1, 2.5, -3, 4, 5.0])
    expected[row] = np.nan
    np.testing.assert_array_equal(table(tmp_path, "a,b\n" + lines, ["a"]).numbers("a"), expected)
    np.testing.assert_array_equal(table(tmp_path, lines, [0]).numbers(0), expected)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("header", ["", "green\n"])
@pytest.mark.parametrize("counts", [False, True])
def test_an_empty_line_in_a_file_of_one_column_is_a_missing_sample(tmp_path, end, header, counts):
    text = (header + "\n1\n\n\n2\n3\n\n").replace("\n", end)
    name = "green" if header else 0
    got = table(tmp_path, text, [name], every_row_counts=counts).numbers(name)
    np.testing.assert_array_equal(got, [np.nan, 1, np.nan, np.nan, 2, 3, np.nan])


def test_empty_lines_where_every_row_counts(tmp_path):
    with pytest.raises(UserError, match="line 3 is empty: write empty cells"):
        table(tmp_path, "a,b\n1,2\n\n3,4\n", ["a"], every_row_counts=True)
    for text in (
        "a,b\n1,2\n,\n3,4\n\n\n",
        "\n\na,b\n1,2\n,\n3,4\n",
    ):  # cells written empty; empty lines before and after the rows
        np.testing.assert_array_equal(table(tmp_path, text, ["a"], every_row_counts=True).numbers("a"), [1, np.nan, 3])
    assert table(tmp_path, "t,a\n1,2\n\n3,4\n", ["a"], "t").numbers("a").tolist() == [2, 4]  # each row has its time
    with pytest.raises(UserError, match="every second line is empty: the file may have doubled line ends"):
        table(tmp_path, "green\n" + "".join(f"\n{value}\n" for value in range(9)), ["green"], every_row_counts=True)
    with pytest.raises(UserError, match="every second line is empty: the file may have doubled line ends"):
        table(tmp_path, "\n\n".join(map(str, range(20))), [0], every_row_counts=True)


def decorated(kind, rows):
    """The same table in many formats: content, keyword arguments, lines before the first row."""
    text = "\n".join(["x,y", *rows]) + "\n"
    return {
        "plain": (text, {}, 1),
        "crlf": (text.replace("\n", "\r\n"), {}, 1),
        "byte order mark": ("﻿" + text, {}, 1),
        "preamble": ("# made by, a watch\n\n# 'it\n" + text, {"skip_rows": 3}, 4),
        "preamble with mark and crlf": ("﻿# made by\n\n" + text.replace("\n", "\r\n"), {"skip_rows": 2}, 3),
        "empty lines before": ("\n\n" + text, {}, 3),
        "quoted": ("\n".join(",".join(f'"{cell}"' for cell in line.split(",")) for line in text.splitlines()), {}, 1),
        "spaces": (text.replace(",", " , "), {}, 1),
        "gz": (gzip.compress(text.encode()), {"name": "t.csv.gz"}, 1),
        "bz2": (bz2.compress(text.encode()), {"name": "t.csv.bz2"}, 1),
        "semicolons": (text.replace(",", ";"), {"delimiter": ";"}, 1),
    }[kind]


DRESSES = [
    "plain",
    "crlf",
    "byte order mark",
    "preamble",
    "preamble with mark and crlf",
    "empty lines before",
    "quoted",
    "spaces",
    "gz",
    "bz2",
    "semicolons",
]


@pytest.mark.parametrize("kind", DRESSES)
def test_values_and_the_line_of_a_bad_cell(tmp_path, kind):
    rows = [f"{i},{i / 4}" for i in range(50)]
    content, options, before = decorated(kind, rows)
    read = table(tmp_path, content, ["x", "y"], **options)
    np.testing.assert_array_equal(read.numbers("y"), np.arange(50) / 4)
    for cell in ("abc", "1.2.3", "0x1F", "1_000", "True", "2024-05-01", "--1"):
        content, options, before = decorated(kind, [*rows[:30], f"30,{cell}", *rows[31:]])
        with pytest.raises(UserError, match=rf"^column 'y', line {before + 31}: not a number \('\s?{cell}\s?'\)"):
            table(tmp_path, content, ["x", "y"], **options).numbers("y")
    content, options, before = decorated(kind, [*rows[:30], "30,1e400", *rows[31:]])
    with pytest.raises(UserError, match=f"^column 'y', line {before + 31}: not a finite number"):
        table(tmp_path, content, ["x", "y"], **options).numbers("y")
    if kind != "quoted":
        content, options, before = decorated(kind, [*rows[:30], "30,1,2", *rows[31:]])
        with pytest.raises(UserError, match=f"^cannot be read: line {before + 31}: Expected 2 columns, got 3"):
            table(tmp_path, content, ["x", "y"], **options)


@pytest.mark.parametrize("row", [0, 150_000, 299_999])
def test_the_line_is_the_files_in_a_long_file_with_empty_lines(tmp_path, row):
    cells = [f"{i % 1000}.5" for i in range(300_000)]  # several blocks of the CSV reader
    cells[7] = ""
    cells[row] = "oops"
    with pytest.raises(UserError, match=rf"column 'green', line {row + 2}: not a number \('oops'\)"):
        table(tmp_path, "green\n" + "\n".join(cells), ["green"]).numbers("green")


def test_columns_that_nobody_asked_for_do_not_matter(tmp_path):
    text = "x,note,x2,note\n1,a,2,\n3,,4,7\n"
    assert table(tmp_path, text, ["x", "x2"]).numbers("x2").tolist() == [2, 4]


@pytest.mark.parametrize("header", ["x,y,z,x ", "x, x,z", '"x",y," x"'])
def test_a_name_that_is_there_twice(tmp_path, header):
    width = header.count(",") + 1
    with pytest.raises(UserError, match=r"the column name 'x' occurs 2 times \(columns 1, [234]\); rename"):
        table(tmp_path, header + "\n" + ",".join("1" * width) + "\n", ["x"])
    columns = pyarrow.table([pyarrow.array([1.0])] * width, names=header.replace('"', "").split(","))
    pyarrow.parquet.write_table(columns, tmp_path / "t.parquet")
    with pytest.raises(UserError, match="the column name 'x' occurs 2 times"):
        Table(tmp_path / "t.parquet", ["x"], None, Layout())


def test_decimal_comma_as_declared(tmp_path):
    text = "a;b\n500,19;-0,5\n;,25\n501,61;1e-3\n"
    read = table(tmp_path, text, ["a", "b"], delimiter=";", decimal=",")
    np.testing.assert_array_equal(read.numbers("a"), [500.19, np.nan, 501.61])
    np.testing.assert_array_equal(read.numbers("b"), [-0.5, 0.25, 1e-3])
    with pytest.raises(UserError, match=r"column 'a', line 3: not a number \('1.5'\)"):
        table(tmp_path, "a;b\n500,19;2\n1.5;2\n", ["a"], delimiter=";", decimal=",").numbers("a")


@pytest.mark.parametrize(
    ("text", "wanted", "options", "message"),
    [
        (
            "green\n500,19\n500,2\n",
            ["green"],
            {},
            r"line 2: Expected 1 columns, got 2 \('500,19'\); if the decimal sign is a comma",
        ),
        ("x,y,z\n0,5,0,3,1,0\n", ["x"], {}, r"line 2: Expected 3 columns, got 6 .*; if the decimal sign is a comma"),
        (
            "x;y\n1;500,19\n",
            ["y"],
            {"delimiter": ";"},
            r"column 'y', line 2: not a number \('500,19'\); if the decimal sign is a comma",
        ),
        ("0,5;0,3\n0,6;0,2\n", [0], {}, r"line 1: contains the delimiter ';' or a tab .*'0,5;0,3'"),
    ],
)
def test_decimal_comma_that_was_not_declared(tmp_path, text, wanted, options, message):
    with pytest.raises(UserError, match=message):
        read = table(tmp_path, text, wanted, **options)
        [read.numbers(name) for name in wanted]


@pytest.mark.parametrize("digits", [1, 2, 5])
@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("scale", [0.3, 30])
def test_numbers_split_at_their_decimal_commas_are_noticed(tmp_path, digits, columns, scale):
    time = np.arange(2000) / 64
    signal = scale * np.stack([np.sin(2 * np.pi * 1.2 * time + k) + 0.1 * np.sin(9 * time) for k in range(columns)], 1)
    lines = [",".join(f"{value:.{digits}f}".replace(".", ",") for value in row) for row in signal]
    with pytest.raises(UserError, match="looks like the decimals of column .*give decimal: ','"):
        table(tmp_path, "\n".join(lines), list(range(columns)))


def test_tables_of_whole_numbers_are_no_decimal_commas():
    rng = np.random.default_rng(0)
    wave = np.round(500 + 30 * np.sin(np.arange(2000) / 8)).astype(int)
    for second in (
        np.arange(2000) + 1,
        rng.integers(0, 10, 2000),
        rng.integers(0, 65536, 2000),
        np.full(2000, 7),
        wave,
        wave // 7,
    ):
        assert split_numbers([[str(a), str(b)] for a, b in zip(wave, second, strict=True)]) is None
    assert split_numbers([["1", "-5"], ["2", "05"]]) is None  # a negative number cannot be decimals
    assert split_numbers([["500", "19"], ["", ""], ["500", "05"]]) == (0, 2)
    assert split_numbers([]) is None


def test_parquet_rows_and_types(tmp_path):
    path = tmp_path / "t.parquet"
    columns = {
        "half": pyarrow.array([0.5, None, 2], pyarrow.float32()),
        "big": pyarrow.array([1_714_557_600_000_000_001, 2, 3], pyarrow.int64()),
        "text": pyarrow.array(["1", " 2 ", "x"]),
        "number text": pyarrow.array(["1.5", None, "-nan"]).dictionary_encode(),
        "yes": pyarrow.array([True, False, True]),
        "decimal": pyarrow.array([1, 2, 3]).cast(pyarrow.decimal128(21, 2)),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    read = Table(path, list(columns), None, Layout())
    np.testing.assert_array_equal(read.numbers("half"), [0.5, np.nan, 2])
    np.testing.assert_array_equal(read.numbers("number text"), [1.5, np.nan, np.nan])
    assert read.stamps("big")[0] == 1_714_557_600_000_000_001
    assert read.numbers("decimal").tolist() == [1, 2, 3]
    for name, message in (
        ("text", r"column 'text', row 3: not a number \('x'\)"),
        ("yes", r"column 'yes', row 1: not a number \(True\)"),
    ):
        with pytest.raises(UserError, match=message):
            read.numbers(name)
