"""The page's reading of CSV files, in node, without a browser: missing cells, columns of other sensors, gaps and rates."""

import json
import shutil
import subprocess

import numpy as np
import pytest

from accdistill_jax.export import demo

NODE = shutil.which("node")
PROGRAM = """
import { readFileSync } from "node:fs";
import { parse, rateOf } from "./table.mjs";
const results = {};
for (const [name, { text, rate }] of Object.entries(JSON.parse(readFileSync("given.json")))) {
  try {
    const { columns, ...times } = parse(text);
    results[name] = { first: columns.map((column) => column[0]), rate: rateOf(times, rate) };
  } catch (error) {
    results[name] = { error: error.message };
  }
}
console.log(JSON.stringify(results));
"""


def csv(header, time, *, xyz="0.1,0.2,0.9"):
    """A file with a row of the same acceleration for each time."""
    return "\n".join([header, *(f"{moment},{xyz}" for moment in time)]) + "\n"


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """Results of the page for files by name."""
    if NODE is None:
        pytest.skip("node is not installed")
    at = np.arange(3000) / 50
    late = np.where(at < 30, at, at + 20)
    cells = csv("time,x,y,z", at).replace("0.1,0.2,0.9\n0.04", "0.1,,0.9\n0.04")
    dates = np.datetime64("2026-01-05T10:00:00.000") + np.arange(3000) * np.timedelta64(20, "ms")
    both = "0.1,0.2,0.9,7,8,9"
    files = {
        "seconds": (csv("time,x,y,z", at), 0),
        "milliseconds": (csv("time,x,y,z", np.round(1000 * at)), 0),
        "dates": (csv("time,x,y,z", dates), 0),
        "packets": (csv("time,x,y,z", np.floor(at)), 0),
        "rows": (csv("time,x,y,z", range(3000)), 0),
        "empty cell": (cells, 0),
        "empty cell of a header": (csv(",x,y,z", range(3000)), 50),
        "gap": (csv("time,x,y,z", late), 0),
        "gap, rate given": (csv("time,x,y,z", late), 50),
        "short gap": (csv("time,x,y,z", np.where(at < 30, at, at + 0.5)), 0),
        "other rate": (csv("time,x,y,z", at), 55),
        "same rate": (csv("time,x,y,z", at), 50),
        "back": (csv("time,x,y,z", at[::-1]), 0),
        "gyroscope first": (csv("time,gyro_x,gyro_y,gyro_z,acc_x,acc_y,acc_z", at, xyz="7,8,9,0.1,0.2,0.9"), 0),
        "acceleration first": (csv("time,x,y,z,gyro_x,gyro_y,gyro_z", at, xyz=both), 0),
        "two of a kind": (csv("time,left_x,left_y,left_z,right_x,right_y,right_z", at, xyz=both), 0),
        "gravity": (csv("time,gravity_x,gravity_y,gravity_z", at), 0),
    }
    folder = tmp_path_factory.mktemp("page")
    shutil.copy(demo.page_folder() / "table.js", folder / "table.mjs")
    (folder / "run.mjs").write_text(PROGRAM)
    given = {name: {"text": text, "rate": rate} for name, (text, rate) in files.items()}
    (folder / "given.json").write_text(json.dumps(given))
    done = subprocess.run([NODE, "run.mjs"], cwd=folder, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", ["seconds", "milliseconds", "dates", "packets", "short gap", "same rate"])
def test_the_rate_is_that_of_the_times(read, name):
    assert read[name]["rate"] == pytest.approx(50.0, rel=1e-6) and read[name]["first"] == [0.1, 0.2, 0.9]


def test_a_count_of_rows_is_no_time(read):
    assert read["rows"]["rate"] is None and read["empty cell of a header"]["rate"] == 50


@pytest.mark.parametrize("name", ["gyroscope first", "acceleration first"])
def test_the_acceleration_is_found_beside_another_sensor(read, name):
    assert read[name]["first"] == [0.1, 0.2, 0.9]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty cell", "Row 3 has a cell that is not a number."),
        ("gap", "The recording has a gap of 20.0 s."),
        ("gap, rate given", "The recording has a gap of 20.0 s."),
        ("other rate", "The time column says 50.00 Hz, not 55."),
        ("back", "The times decrease after sample 1."),
        ("two of a kind", "Several columns may be x: left_x, right_x."),
        ("gravity", "The columns x, y and z are not clear."),
    ],
)
def test_what_would_give_wrong_numbers_is_refused(read, name, message):
    assert read[name]["error"].startswith(message)
