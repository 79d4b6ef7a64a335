"""Tables of acceleration that nobody described: formats that are found, and those that are refused."""

import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from accdistill_jax.data.recordings import find
from accdistill_jax.errors import UserError

RATE_HZ, COUNT = 50, 400
TIME = np.arange(COUNT) / RATE_HZ
SIGNAL = np.random.default_rng(0).normal([0.0, 0.6, 0.8], 0.002, (COUNT, 3)).round(5)
UNIX = 1_700_000_000


def text(columns, *, delimiter=",", decimal=".", header="", before=""):
    rows = [delimiter.join(f"{value}".replace(".", decimal) for value in row) for row in zip(*columns, strict=True)]
    return before + (header + "\n" if header else "") + "\n".join(rows) + "\n"


AXES = list(SIGNAL.T)
STAMPED = [TIME, *AXES]
FORMS = {
    "three columns": (text(AXES), {"rate_hz": RATE_HZ}),
    "names": (text(AXES, header="x,y,z"), {"rate_hz": RATE_HZ}),
    "names in another order": (text([AXES[2], AXES[0], AXES[1]], header="acc_z,acc_x,acc_y"), {"rate_hz": RATE_HZ}),
    "semicolons and decimal commas": (text(AXES, delimiter=";", decimal=",", header="x;y;z"), {"rate_hz": RATE_HZ}),
    "tabs": (text(AXES, delimiter="\t", header="x\ty\tz"), {"rate_hz": RATE_HZ}),
    "blanks": (text(AXES, delimiter=" "), {"rate_hz": RATE_HZ}),
    "seconds": (text(STAMPED, header="time,x,y,z"), {}),
    "milliseconds by name": (text([1000 * TIME, *AXES], header="t (ms),x,y,z"), {}),
    "unix nanoseconds": (text([(UNIX * 10**9 + TIME * 1e9).astype(np.int64), *AXES], header="timestamp,x,y,z"), {}),
    "lines before the header": (text(AXES, header="x,y,z", before="device ABC\n\n"), {"rate_hz": RATE_HZ}),
    "other sensors beside": (
        text([*AXES, *AXES], header="ax,ay,az,gyro_x,gyro_y,gyro_z"),
        {"rate_hz": RATE_HZ},
    ),
    "numbers of columns": (text([TIME, *AXES, TIME]), {"rate_hz": RATE_HZ, "columns": ("1", "2", "3")}),
    "m/s2 in the header": (
        text(
            list((SIGNAL * 9.80665).T),
            header="Acceleration x (m/s^2),Acceleration y (m/s^2),Acceleration z (m/s^2)",
        ),
        {"rate_hz": RATE_HZ},
    ),
    "mg": (text(list((1000 * SIGNAL).T)), {"rate_hz": RATE_HZ, "unit": "mg"}),
    "byte order mark": ("\ufeff" + text(AXES, header="x,y,z"), {"rate_hz": RATE_HZ}),
}


def load(path, **options):
    (source,) = find("plain", path, **options)
    return source.load()


@pytest.mark.parametrize("name", FORMS)
def test_formats_are_found(tmp_path, name):
    content, options = FORMS[name]
    path = tmp_path / "watch.csv"
    path.write_text(content, encoding="utf-8")
    recording = load(path, **options)
    accel = recording.streams["accel"]
    np.testing.assert_allclose(accel.values, SIGNAL, atol=2e-5)
    assert recording.participant.participant_id == "watch"
    steps = np.diff(accel.time_s) if accel.rate_hz is None else 1 / accel.rate_hz
    np.testing.assert_allclose(steps, 1 / RATE_HZ, rtol=1e-4)
    assert recording.start_unix_s == pytest.approx(UNIX if name.startswith("unix") else 0.0)


def test_compressed_and_parquet_files(tmp_path):
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text(AXES, header="x,y,z").encode()))
    pq.write_table(pa.table(dict(zip("xyz", AXES, strict=True))), tmp_path / "b.parquet")
    sources = find("plain", tmp_path, rate_hz=RATE_HZ)
    assert [source.participant_id for source in sources] == ["a", "b"]
    for source in sources:
        np.testing.assert_allclose(source.load().streams["accel"].values, SIGNAL, atol=1e-6)


DATES = [f"2024-05-01T10:00:{second:06.3f}" for second in TIME]
START = 1_714_557_600


@pytest.mark.parametrize("options", [{}, {"rate_hz": RATE_HZ}])
def test_dates_give_the_start(tmp_path, options):
    path = tmp_path / "watch.csv"
    path.write_text(text([DATES, *AXES], header="time;x;y;z", delimiter=";"))
    assert load(path, **options).start_unix_s == START


REFUSED = {
    "no rate": (text(AXES, header="x,y,z"), {}, "no column of time stamps; give the rate"),
    "another rate": (
        text(STAMPED, header="time,x,y,z"),
        {"rate_hz": 100},
        "has 50 samples per second; correct the rate",
    ),
    "another rate than the dates": (
        text([DATES, *AXES], header="time;x;y;z", delimiter=";"),
        {"rate_hz": 100},
        "has 50 samples per second; correct the rate",
    ),
    "two columns": (text(AXES[:2]), {"rate_hz": 50}, "no table of numbers is recognised"),
    "five columns": (text([*AXES, *AXES[:2]]), {"rate_hz": 50}, "has 5 columns and no header"),
    "unclear names": (text([*AXES, TIME], header="a,b,c,d"), {"rate_hz": 50}, "not certain among a, b, c, d"),
    "two accelerometers": (
        text([*AXES, *AXES], header="left x,left y,left z,right x,right y,right z"),
        {"rate_hz": 50},
        "not certain",
    ),
    "commas for both": (
        text(AXES, decimal=",", header="x,y,z"),
        {"rate_hz": 50},
        "commas stand between cells and in numbers",
    ),
    "texts": ("x,y,z\na,b,c\n", {"rate_hz": 50}, "no table of numbers is recognised"),
    "empty": ("", {"rate_hz": 50}, "the file is empty"),
    "a spreadsheet": ("PK\x03\x04\0\0", {"rate_hz": 50}, "a spreadsheet or an archive; save it as CSV"),
    "units disagree": (
        text(AXES, header="x (g),y (g),z (mg)"),
        {"rate_hz": 50},
        "the header says g and mg, --unit says nothing",
    ),
    "unit against the header": (
        text(AXES, header="x (g),y (g),z (g)"),
        {"rate_hz": 50, "unit": "mg"},
        "the header says g, --unit says mg",
    ),
    "columns that are absent": (
        text(AXES, header="x,y,z"),
        {"rate_hz": 50, "columns": ("a", "b", "c")},
        "'a'|a, b, c|column",
    ),
    "numbers beyond": (text(AXES), {"rate_hz": 50, "columns": ("1", "2", "9")}, "give numbers from 0 to 2"),
    "unclear steps": (
        text([TIME * 3.7e-9, *AXES], header="time,x,y,z"),
        {},
        "are no usual rate in s, ms, us or ns; give the rate",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_uncertain_tables_are_refused_with_the_file_named(tmp_path, name):
    content, options, message = REFUSED[name]
    path = tmp_path / "watch.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message) as raised:
        load(path, **options)
    assert "watch.csv" in str(raised.value) and "\n" not in str(raised.value)


def test_two_columns_are_not_three(tmp_path):
    with pytest.raises(UserError, match="give three, of x, y and z"):
        find("plain", tmp_path, rate_hz=50, columns=("x", "y"))
