"""Labels of a store's segments from its columns or a user's table: matched by person and time, or refused in a line."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from accdistill_jax.api.probe_labels import read_label
from accdistill_jax.api.store import open_store
from accdistill_jax.data.prepare.__main__ import main as prepare
from accdistill_jax.errors import UserError


@pytest.fixture(scope="module")
def store(smoke_store):
    return open_store(smoke_store)


def people_of(store):
    return sorted(set(store.segments["participant"].tolist()))


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def test_columns_of_the_store_are_labels(store):
    rate = read_label(store, "hr_bpm")
    assert (rate.kind, rate.per, rate.classes) == ("number", "minute", ())
    np.testing.assert_allclose(rate.value, store.segments["hr_bpm"], rtol=1e-6)
    sex = read_label(store, "sex")
    assert (sex.kind, sex.per) == ("classes", "person") and set(sex.classes) <= {"female", "male"}
    named = [sex.classes[int(value)] for value in sex.value]
    facts = dict(zip(*(store.participants[name].to_pylist() for name in ("participant", "sex")), strict=True))
    assert named == [facts[who] for who in store.segments["participant"]]
    assert read_label(store, "hr_bpm", kind="classes").kind == "classes"


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".parquet"])
def test_a_table_of_people_labels_all_their_minutes(store, tmp_path, ending):
    people = people_of(store)
    values = [5.0 + 0.1 * number for number in range(len(people))]
    path = tmp_path / f"hba1c{ending}"
    if ending == ".parquet":
        pq.write_table(pa.table({"participant": people, "hba1c": values}), path)
    else:
        sign = "\t" if ending == ".tsv" else ";"
        write(path, f"participant{sign}hba1c", *(f"{who}{sign}{v:g}" for who, v in zip(people, values, strict=True)))
    label = read_label(store, str(path))
    assert (label.name, label.kind, label.per, label.remarks) == ("hba1c", "number", "person", [])
    expected = dict(zip(people, values, strict=True))
    np.testing.assert_allclose(label.value, [expected[who] for who in store.segments["participant"]])


@pytest.mark.parametrize("form", ["unix", "date"])
def test_a_table_of_minutes_is_matched_by_person_and_time(store, tmp_path, form):
    rows = [3, 4, 20, 50]
    starts = store.segments["start_unix_s"][rows] + [0, 20, -25, 10]
    stages = ["wake", "rem", "deep", "wake"]
    texts = [f"{s:.3f}" if form == "unix" else str(np.datetime64(round(s * 1e6), "us")) + "Z" for s in starts]
    who = store.segments["participant"][rows]
    path = write(
        tmp_path / "sleep.csv",
        "participant,start,note,stage",
        *(f"{w},{t},,{s}" for w, t, s in zip(who, texts, stages, strict=True)),
        f"{who[0]},{starts[0] + 40_000_000:.0f},,rem",
    )
    label = read_label(store, path, column="stage")
    assert (label.per, label.kind, label.classes) == ("minute", "classes", ("deep", "rem", "wake"))
    assert np.flatnonzero(np.isfinite(label.value)).tolist() == rows
    assert [label.classes[int(v)] for v in label.value[rows]] == stages


def test_kinds_are_decided_by_the_values(store, tmp_path):
    people = people_of(store)

    def kind(*values, **options):
        lines = [f"{who},{values[number % len(values)]}" for number, who in enumerate(people)]
        return read_label(store, write(tmp_path / "label.csv", "participant,label", *lines), **options)

    assert kind(0, 1).classes == ("0", "1") and kind("true", "false").kind == "classes"
    assert kind(0, 1, 2).kind == "number" and kind(0, 2, 10, kind="classes").classes == ("0", "2", "10")
    assert kind(0, 1, kind="number").kind == "number" and kind("calm", "", "stress").classes == ("calm", "stress")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["participant,hba1c"], "it has no rows"),
        (["person,hba1c", "a,1"], "no column participant"),
        (["participant", "{0}"], "it has no column besides participant; add the label"),
        (["participant,a,b", "{0},1,2"], "it has several labels: a, b; choose one by --column"),
        (["participant,a,a", "{0},1,2"], "the column 'a' occurs twice"),
        (["participant,a", "{0},1", "{1}"], "row 2 has 1 cells, expected 2"),
        (["participant,a", "p01,1", "p02,2"], "none of its 2 people is in"),
        (["participant,a", "{0},1", "{0},2"], "row 2: '{0}' has the values '1' and '2'"),
        (["participant,start,a", "{0},yesterday,1"], "row 1: start 'yesterday' is neither a date"),
        (["participant,start,a", "{0},,1"], "row 1: start is empty"),
        (["participant,start,a", "{0},1999-01-01T00:00:00Z,1"], "no row begins within 30 s of a minute"),
    ],
)
def test_tables_that_do_not_fit_get_one_line(store, tmp_path, lines, message):
    people = people_of(store)
    path = write(tmp_path / "label.csv", *(line.format(*people) for line in lines))
    with pytest.raises(UserError) as refusal:
        read_label(store, path)
    assert str(refusal.value).startswith(f"{path}: {message.format(*people)}") and "\n" not in str(refusal.value)


def test_other_wrong_targets_get_one_line(store, tmp_path):
    def refused(*arguments, **options):
        with pytest.raises(UserError) as refusal:
            read_label(store, *arguments, **options)
        assert "\n" not in str(refusal.value)
        return str(refusal.value)

    assert "no label 'hr_bpn'; did you mean hr_bpm?" in refused("hr_bpn")
    assert "it has " in refused("zzzzzz") and "crc32" not in refused("zzzzzz")
    assert "allowed only if --target is a file" in refused("hr_bpm", column="x")
    assert "has the value 'female', which is no number" in refused("sex", kind="number")
    assert "cannot be read (No such file or directory)" in refused(str(tmp_path / "none.csv"))
    (tmp_path / "latin.csv").write_bytes("participant,état\na,1\n".encode("latin-1"))
    assert "save it as UTF-8" in refused(str(tmp_path / "latin.csv"))
    (tmp_path / "no.parquet").write_bytes(b"no table")
    assert "cannot be read" in refused(str(tmp_path / "no.parquet"))
    table = write(tmp_path / "two.csv", "participant,a", f"{people_of(store)[0]},1", "stranger,2")
    assert read_label(store, table, kind="number").remarks == [
        f"{table}: left out, because they are not in the store: stranger"
    ]
    assert "no label 'b'" in refused(table, column="b")


@pytest.fixture(scope="module")
def simultaneous(tmp_path_factory):
    """A store of two people with two recordings each, of which nobody knows the date: all begin at 0."""
    folder = tmp_path_factory.mktemp("undated")
    rng = np.random.default_rng(0)
    for number, who in enumerate(("p0", "p0", "p1", "p1")):
        one = folder / "recordings" / f"{who}_{'ab'[number % 2]}"
        one.mkdir(parents=True)
        t = np.arange(130 * 32) / 32
        accel = rng.normal(0, 0.003, (len(t), 3)) + [0, 0.6, 0.8]
        np.savetxt(one / "acc.csv", accel, "%.5f", ",", header="x,y,z", comments="")
        (one / "recording.yaml").write_text(
            f"participant: {{id: {who}}}\ndevice: watch\n"
            "streams: {accel: {file: acc.csv, columns: [x, y, z], rate_hz: 32, unit: g}}\n"
        )
    assert prepare(["generic", str(folder / "recordings"), "--out", str(folder / "store"), "--workers", "1"]) == 0
    return open_store(folder / "store")


def test_rows_belong_to_the_recording_that_they_name(simultaneous, tmp_path):
    segments = simultaneous.segments
    rows = [*zip(segments["participant"], segments["recording"], segments["start_unix_s"], strict=True)]
    assert len(rows) == 8 and sorted(set(segments["start_unix_s"])) == [0, 60]
    table = write(
        tmp_path / "v.csv",
        "participant,recording,start,v",
        *(f"{who},{name},{at:g},{k}" for k, (who, name, at) in enumerate(rows)),
    )
    assert read_label(simultaneous, table, kind="number").value.tolist() == list(range(8))
    elsewhere = write(tmp_path / "w.csv", "participant,recording,start,v", "p0,mine,0,1", "p0,mine,60,2")
    with pytest.raises(UserError, match="none of its recordings is one of the same person .*leave out the column"):
        read_label(simultaneous, elsewhere)
    table = write(tmp_path / "x.csv", "participant,start,v", "p0,0,1", "p0,60,2")
    with pytest.raises(UserError, match=r"of 'p0' have minutes at the same time in .*; add a column\s+recording"):
        read_label(simultaneous, table)


def test_rows_that_contradict_or_belong_nowhere_are_named(store, tmp_path):
    who, (start, next_start) = store.segments["participant"][0], store.segments["start_unix_s"][:2]
    rows = [f"{who},{start:.0f},0", f"{who},{next_start:.0f},1"] + [
        f"{who},{start + 1e7 + k:.0f},{k}" for k in range(3)
    ]
    label = read_label(store, write(tmp_path / "far.csv", "participant,start,v", *rows), kind="number")
    assert label.remarks == [f"{tmp_path / 'far.csv'}: 3 of 5 rows belong to no minute of the store"]
    twice = write(tmp_path / "twice.csv", "participant,start,v", rows[0], f"{who},{start:.0f},100", rows[1])
    with pytest.raises(UserError, match="rows 1 and 2 have the same person and start, and the values '0' and '100'"):
        read_label(store, twice)


def test_unix_seconds_of_a_parquet_file_keep_their_digits(store, tmp_path):
    rows = np.flatnonzero(store.segments["participant"] == store.segments["participant"][0])[:6]
    starts = store.segments["start_unix_s"][rows] - 18
    values = {"v": np.arange(len(rows), dtype=np.float64)}
    early = {"participant": [store.segments["participant"][0]] * (2 * len(rows))}
    early["start"] = np.sort(np.concatenate([starts, starts + 30])).astype(np.float64)
    early["v"] = np.arange(2 * len(rows), dtype=np.float32) + np.float32(0.1)
    pq.write_table(pa.table(early), tmp_path / "v.parquet")
    label = read_label(store, str(tmp_path / "v.parquet"), kind="number")
    np.testing.assert_allclose(label.value[rows], 2 * values["v"] + 1 + 0.1, rtol=1e-6)


def test_decimal_commas_of_a_table_with_semicolons_are_numbers(store, tmp_path):
    people = people_of(store)
    rows = [f"{who};{number},{number}" for number, who in enumerate(people)]
    label = read_label(store, write(tmp_path / "a.csv", "participant;hba1c", *rows))
    assert label.kind == "number" and set(label.value.tolist()) == {float(f"{n}.{n}") for n in range(len(people))}
    rows = [f"{who};{'1,2 or 3' if number else '1,5'}" for number, who in enumerate(people)]
    assert read_label(store, write(tmp_path / "b.csv", "participant;text", *rows)).classes == ("1,2 or 3", "1,5")


@pytest.mark.parametrize("minutes", [True, False])
def test_outer_white_space_of_ids_does_not_count(tmp_path, minutes):
    """Stores of earlier versions keep it."""
    segments = {"participant": np.array(["P01 ", "P01", "Zoe\u0308"]), "start_unix_s": np.array([0.0, 60.0, 0.0])}
    store = SimpleNamespace(
        path="old",
        segments=segments,
        participants=pa.table({"participant": ["P01 ", "P01", "Zoe\u0308"]}),
        num_segments=3,
        samples=3840,
        rate_hz=64.0,
    )
    rows = ("P01,0,1", " P01,60,2", "Zo\u00eb ,0,3") if minutes else ("P01,5", "Zo\u00eb ,3")
    head = "participant,start,v" if minutes else "participant,v"
    label = read_label(store, write(tmp_path / "label.csv", head, *rows), kind="number")
    assert label.value.tolist() == ([1, 2, 3] if minutes else [5, 5, 3]) and not label.remarks


def test_spellings_of_a_number_are_one_class(store, tmp_path):
    people = people_of(store)
    cells = ["0", "1", "1.0", "0.0"]
    rows = [f"{who},{cells[number % 4]}" for number, who in enumerate(people)]
    label = read_label(store, write(tmp_path / "smoker.csv", "participant,smoker", *rows))
    assert (label.kind, label.classes) == ("classes", ("0", "1"))
    expected = {who: float(cells[number % 4]) for number, who in enumerate(people)}
    np.testing.assert_allclose(label.value, [expected[who] for who in store.segments["participant"]])
