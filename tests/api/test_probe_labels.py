"""Labels of a store's segments from its columns or a user's table: matched by person and time, or refused in a line."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from accdistill_jax.api.probe_labels import read_label
from accdistill_jax.api.store import open_store
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
