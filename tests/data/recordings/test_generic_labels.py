"""The key `labels` of the generic layout, from the description to the tables of a store."""

import json

import numpy as np
import pytest

from accdistill_jax.api.probe_labels import read_label
from accdistill_jax.api.store import open_store
from accdistill_jax.data.prepare.__main__ import main
from accdistill_jax.data.recordings import find
from accdistill_jax.errors import UserError

RATE, SECONDS, START = 50, 190, 1_714_557_600


def make(folder, who, *, labels=None, table=(), person=None, seed=0):
    """A recording of three minutes with clear pulses, and its labels."""
    folder.mkdir(parents=True)
    time = np.arange(RATE * SECONDS) / RATE
    phase = (time * (1.1 + 0.05 * seed)) % 1
    pulse = np.exp(-0.5 * ((phase - 0.2) / 0.06) ** 2) + 0.5 * np.exp(-0.5 * ((phase - 0.45) / 0.14) ** 2)
    shake = 0.002 * np.random.default_rng(seed).normal(size=(len(time), 3))
    (folder / "signals.csv").write_text(
        "\n".join(
            [
                "green,x,y,z",
                *(f"{p:.6f},{x:.5f},{y:.5f},{1 + z:.5f}" for p, (x, y, z) in zip(pulse, shake, strict=True)),
            ]
        )
        + "\n"
    )
    streams = {
        "ppg": {"file": "signals.csv", "columns": ["green"], "rate_hz": RATE},
        "accel": {"file": "signals.csv", "columns": ["x", "y", "z"], "rate_hz": RATE},
    }
    participant = {"id": who} | ({"labels": person} if person else {})
    description = {"participant": participant, "start": START, "streams": streams}
    if labels is not None:
        description["labels"] = labels
        (folder / "labels.csv").write_text("\n".join(table) + "\n")
    (folder / "recording.json").write_text(json.dumps(description))
    return folder


ENTRY = {"file": "labels.csv", "time": "t", "columns": ["stress", "stage"], "duration_s": 60}
TABLE = ("t,stress,stage", "0,1,wake", "60,2,", "120,,rem")


def load_one(root):
    (source,) = find("generic", root)
    return source.load()


def test_labels_of_windows_and_people_are_read(tmp_path):
    person = {"hba1c_percent": 5.4, "group": "control", "smoker": False, "empty": None}
    recording = load_one(make(tmp_path / "p1", "p1", labels=ENTRY, table=TABLE, person=person))
    assert recording.participant.labels == {"hba1c_percent": 5.4, "group": "control", "smoker": "false"}
    assert recording.labels.duration_s == 60
    np.testing.assert_array_equal(recording.labels.values["stress"], [1, 2, np.nan])
    assert recording.labels.values["stage"].tolist() == ["wake", "", "rem"]


def test_a_store_holds_them_and_probe_reads_them(tmp_path, capsys):
    make(tmp_path / "in/p1", "p1", labels=ENTRY, table=TABLE, person={"hba1c": 5.4, "group": "a"}, seed=1)
    make(tmp_path / "in/p2", "p2", person={"group": "b"}, seed=2)
    stress_only = ENTRY | {"columns": ["stress"], "time_origin": "unix"}
    times = ("t,stress", f"{START},4", f"{START + 60},5", f"{START + 120},6")
    make(tmp_path / "in/p3", "p3", labels=stress_only, table=times, seed=3)
    store = str(tmp_path / "store")
    split = tmp_path / "split.csv"
    split.write_text("participant,split\np1,train\np2,validation\np3,test\n")
    command = ["generic", str(tmp_path / "in"), "--out", store, "--workers", "1", "--quiet", "--split-file", str(split)]
    assert main(command) == 0, capsys.readouterr().err
    opened = open_store(store, verify=True)
    assert opened.num_segments == 9
    np.testing.assert_array_equal(opened.segments["label_stress"], [1, 2, np.nan, np.nan, np.nan, np.nan, 4, 5, 6])
    assert opened.segments["label_stage"].tolist() == ["wake", "", "rem"] + [""] * 6
    assert opened.participants["label_hba1c"].to_pylist() == [5.4, None, None]
    assert opened.participants["label_group"].to_pylist() == ["a", "b", None]
    stage = read_label(opened, "stage")
    assert (stage.kind, stage.per, stage.classes) == ("classes", "minute", ("rem", "wake"))
    np.testing.assert_array_equal(stage.value, [1, np.nan, 0] + [np.nan] * 6)
    group = read_label(opened, "group")
    np.testing.assert_array_equal(group.value, [0, 0, 0, 1, 1, 1, np.nan, np.nan, np.nan])
    assert (group.per, group.classes) == ("person", ("a", "b"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ENTRY | {"columns": "stress"}}, "labels.columns must be a list of column names"),
        ({"labels": {k: v for k, v in ENTRY.items() if k != "duration_s"}}, "labels.duration_s is missing"),
        ({"labels": {k: v for k, v in ENTRY.items() if k != "time"}}, "labels.time is missing"),
        ({"labels": ENTRY | {"columns": ["stres"]}}, "there is no column 'stres'; did you mean 'stress'?"),
        ({"labels": ENTRY | {"column": ["stress"]}}, "unknown key labels.column; did you mean 'columns'?"),
        ({"labels": ENTRY | {"duration_s": 0}}, "windows must last longer than 0 s"),
        ({"labels": ENTRY, "table": ("t,stress,stage", "soon,1,wake")}, "not a number or an ISO 8601 date"),
        ({"person": [5.4]}, "participant.labels must be a mapping of name to number or text"),
        ({"person": {"a-b": 5.4}}, "label 'a-b': a name has letters, digits and '_' only"),
        ({"person": {"a": [1]}}, "label 'a' must be a number or a text, got [1]"),
    ],
)
def test_bad_labels_get_one_line(tmp_path, changes, message):
    make(tmp_path / "p1", "p1", **{"table": TABLE} | changes)
    with pytest.raises(UserError) as refusal:
        load_one(tmp_path)
    assert message in str(refusal.value) and "p1" in str(refusal.value) and "\n" not in str(refusal.value)


ROWS = ("t,stress", "0,0", "30,1", "60,2", "90,3")


@pytest.mark.parametrize(
    ("rows", "duration_s", "every_s"),
    [
        (ROWS, 30_000, "30"),
        (("t,stress", "0,0", "0.03,1", "0.06,2"), 30, "0.03"),
        (("t,stress", "0,a", "30,b"), 700, "30"),
    ],
)
def test_windows_in_another_unit_are_refused(tmp_path, rows, duration_s, every_s):
    entry = ENTRY | {"columns": ["stress"], "duration_s": duration_s}
    make(tmp_path / "p1", "p1", labels=entry, table=rows)
    with pytest.raises(UserError) as refusal:
        load_one(tmp_path)
    assert str(refusal.value).startswith(str(tmp_path / "p1/labels.csv"))
    assert f"a window begins every {every_s} s, but lasts duration_s: {duration_s}; give duration_s in seconds" in str(
        refusal.value
    )


@pytest.mark.parametrize(
    ("rows", "duration_s"),
    [
        (ROWS, 30),
        (ROWS, 600),  # 20 spacings
        (("t,stress", *(f"{second},{second % 3}" for second in range(90))), 60),
        (("t,stress", *(f"{second},{second // 60 if second % 60 == 0 else ''}" for second in range(150))), 900),
        (("t,stress", "0,5"), 86_400),
    ],
)
def test_windows_that_may_overlap_so_much_are_read(tmp_path, rows, duration_s):
    make(tmp_path / "p1", "p1", labels=ENTRY | {"columns": ["stress"], "duration_s": duration_s}, table=rows)
    assert load_one(tmp_path).labels.duration_s == duration_s


@pytest.mark.parametrize(
    ("cells", "place"),
    [
        (("2", "-", "6", "8"), "line 3: not a number ('-'), but 3 of 4"),
        (("2", "", "nan", "8", "?", "-", "--", "-"), "line 6: not a number ('?'), but 2 of 6"),
        (("2", "6", "high"), "line 4: not a number ('high'), but 2 of 3"),
        (("2", "6", "inf"), "line 4: not a finite number, but 2 of 3"),
    ],
)
def test_a_number_is_no_class_because_of_some_cells(tmp_path, cells, place):
    rows = ("t,stress", *(f"{60 * number},{cell}" for number, cell in enumerate(cells)))
    make(tmp_path / "p1", "p1", labels=ENTRY | {"columns": ["stress"]}, table=rows)
    with pytest.raises(UserError) as refusal:
        load_one(tmp_path)
    assert f"labels.csv: column 'stress', {place} cells are numbers; leave a cell empty" in str(refusal.value)


def test_the_decimal_comma_makes_no_classes(tmp_path):
    rows = ("t;stress", "0;1,5", "60;2,5")
    entry = ENTRY | {"columns": ["stress"], "delimiter": ";"}
    make(tmp_path / "p1", "p1", labels=entry, table=rows)
    with pytest.raises(UserError, match="line 2: not a number .'1,5'.; if the decimal sign is a comma, give decimal"):
        load_one(tmp_path)
    make(tmp_path / "p2", "p2", labels=entry | {"decimal": ","}, table=rows)
    assert find("generic", tmp_path / "p2")[0].load().labels.values["stress"].tolist() == [1.5, 2.5]


@pytest.mark.parametrize("cells", [("wake", "-", "rem"), ("1", "2", "R", "W"), ("5", "1-2", "3-4"), ("-", "?")])
def test_classes_with_some_numbers_stay_classes(tmp_path, cells):
    rows = ("t,stage", *(f"{60 * number},{cell}" for number, cell in enumerate(cells)))
    make(tmp_path / "p1", "p1", labels=ENTRY | {"columns": ["stage"]}, table=rows)
    assert load_one(tmp_path).labels.values["stage"].tolist() == list(cells)


def test_show_prints_own_labels_and_tells_times_of_another_clock(tmp_path, capsys):
    far = ("t,stress,stage", "7200,5,wake", "7260,6,rem")
    make(tmp_path / "in/p1", "p1", labels=ENTRY, table=TABLE, person={"hba1c": 5.4, "group": "a"}, seed=1)
    make(tmp_path / "in/p2", "p2", labels=ENTRY, table=far, person={"group": "[b]"}, seed=2)
    store, split = str(tmp_path / "store"), tmp_path / "split.csv"
    split.write_text("participant,split\np1,train\np2,test\n")
    command = ["generic", str(tmp_path / "in"), "--out", store, "--workers", "1", "--quiet", "--split-file", str(split)]
    assert main(command) == 0, capsys.readouterr().err
    capsys.readouterr()
    assert main(["show", store]) == 0
    shown = capsys.readouterr().out
    rows = {
        cells[1].strip(): [cell.strip() for cell in cells[2:5]]
        for cells in (line.split("│") for line in shown.splitlines())
        if len(cells) > 5
    }
    assert rows["label_stress"] == ["1.5 (1.05 to 1.95), 67%", "unknown", "unknown"]
    assert rows["label_stage"] == ["wake 50%, rem 50%; 67%", "unknown", "unknown"]
    assert rows["label_hba1c (people)"] == ["5.4 (5.4 to 5.4), 100%", "unknown", "unknown"]
    assert rows["label_group (people)"] == ["a 100%; 100%", "unknown", "[b] 100%; 100%"]
    assert (
        "recording p2: labels: none of 2 windows of labels lies within the recording's 0 to 190 s (they lie at 7200 to 7260 s)"
        in shown
    )
    assert "recording p1: labels" not in shown


@pytest.mark.slow
@pytest.mark.parametrize("per", ["minute", "person"])
def test_a_label_of_two_kinds_is_refused(tmp_path, capsys, per):
    if per == "minute":
        entry = ENTRY | {"columns": ["stress"]}
        make(tmp_path / "in/p1", "p1", labels=entry, table=("t,stress", "0,1", "60,2"), seed=1)
        make(tmp_path / "in/p2", "p2", labels=entry, table=("t,stress", "0,high", "60,low"), seed=2)
    else:
        make(tmp_path / "in/p1", "p1", person={"stress": 1}, seed=1)
        make(tmp_path / "in/p2", "p2", person={"stress": "high"}, seed=2)
    command = ["generic", str(tmp_path / "in"), "--out", str(tmp_path / "store"), "--workers", "1", "--quiet"]
    assert main([*command, "--split-fractions", "0.5", "0.5", "0"]) == 2
    assert "the label stress is a number" in capsys.readouterr().err
