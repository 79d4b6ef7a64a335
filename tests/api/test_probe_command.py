"""`accdistill probe`: fits, reports, saves beside the encoder, and refuses wrong inputs in a line."""

import numpy as np
import pytest

import accdistill_jax as ad
from accdistill_jax.api.probe_command import main
from accdistill_jax.data.prepare.__main__ import main as prepare
from accdistill_jax.data.store.merge import merge_stores
from accdistill_jax.data.store.split import SplitRule
from accdistill_jax.errors import UserError
from accdistill_jax.readouts.label_probe import load_label_probes
from accdistill_jax.run import run
from accdistill_jax.storage.checked_npz import encode_npz, read_npz


@pytest.fixture
def probe(copy, smoke_store, tmp_path, capsys):
    """Runs the command on a copy of a finished run; returns its status, output and error."""

    def run(*arguments, run=copy, store=smoke_store):
        status = main([str(word) for word in (run, store, *arguments)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_a_read_out_is_fitted_reported_and_saved(probe, copy, smoke_store):
    status, out, err = probe("--target", "hr_bpm", "--unit", "bpm", "--name", "rate", "--quiet")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    # the run was trained on this store, so only its 3 test people are measured
    assert lines[0].startswith("rate (a number; per minute; linear): ") and "measured on 3 people" in lines[0]
    assert any(line.startswith("  mean absolute error ") and "the person's other minutes" in line for line in lines)
    assert any(line.startswith("caution: 3 people are few") for line in lines)
    assert lines[-1] == f"saved: {copy / 'student/export/probes/rate.npz'}"
    encoder, store = ad.load(copy), ad.open_store(smoke_store)
    (saved,) = load_label_probes(encoder.path, fingerprint=encoder.fingerprint).values()
    rows = store.indices("test")
    predicted = saved.predict(encoder.encode(store.read(rows)), motion_g=store.segments["motion_g"][rows])
    assert predicted.known.any() and np.isfinite(predicted.high[predicted.known]).all()
    assert (saved.unit, saved.people) == ("bpm", 12)


@pytest.mark.slow
def test_people_of_a_merged_training_store_are_not_measured_in_its_part(probe, smoke_config, smoke_store, tmp_path):
    people = sorted(set(ad.open_store(smoke_store).segments["participant"].tolist()))
    split = {who: ("train", "validation", "test")[number % 3] for number, who in enumerate(people)}
    merged = merge_stores([smoke_store], tmp_path / "merged", split=SplitRule(assignment=split))
    steps = {"teacher.train.duration": "1 steps", "teacher.train.warmup": "0 steps", "stages": ("data", "teacher")}
    run(smoke_config(**{"data.stores": (merged.path,)}, **steps), tmp_path / "run")
    status, out, _ = probe("--target", "hr_bpm", "--name", "rate", "--quiet", run=tmp_path / "run")
    assert status == 0
    assert f"of 12 people; measured on {list(split.values()).count('test')} people" in out


def test_classes_of_people_from_a_table(probe, copy, smoke_store, tmp_path):
    people = sorted(set(ad.open_store(smoke_store).segments["participant"].tolist()))
    rows = [f"{who},{'stress' if number % 2 else 'calm'}" for number, who in enumerate(people)]
    table = tmp_path / "group.csv"
    table.write_text("\n".join(["participant,group", *rows, "stranger,calm"]) + "\n")
    status, out, _ = probe("--target", table, "--model", "boosted", "--part", "teacher")
    assert status == 0
    assert (
        "left out, because they are not in the store: stranger" in out and "caution: the encoder was trained on" in out
    )
    assert "group (2 classes: calm, stress; per person; boosted)" in out
    assert "area under the ROC curve" in out and "saved: " in out and "teacher/export/probes/group.npz" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--target", "hr_bpn"), "no label 'hr_bpn'; did you mean hr_bpm?"),
        (("--target", "hr_bpm", "--name", "a/b"), "name 'a/b' of the probe: use letters"),
        (
            ("--target", "hr_bpm"),
            "name 'hr_bpm' of the probe: predictions have a column of this name already; give another --name",
        ),
        (("--target", "hr_bpm", "--name", "sdnn_ms_low"), "name 'sdnn_ms_low' of the probe: predictions have a column"),
        (("--target", "hr_bpm", "--name", "motion"), "name 'motion' of the probe: predictions have a column"),
        (("--target", "hr_source"), "hr_source: all 88 values are beats; there is nothing to predict"),
        (("--target", "empty.csv"), "empty.csv: empty: no minute has a value"),
        (("--target", "one.csv"), "one.csv: one: only the person"),
        (("--target", "ids.csv"), "none of its 1 people is in"),
        (("--target", "hr_bpm", "--seed", "-1"), "--seed -1 must not be negative"),
    ],
)
def test_wrong_inputs_get_one_line(probe, copy, smoke_store, tmp_path, monkeypatch, arguments, message):
    person = ad.open_store(smoke_store).segments["participant"][0]
    monkeypatch.chdir(tmp_path)
    for name, row in {"empty": f"{person},", "one": f"{person},3", "ids": "p1,3"}.items():
        (tmp_path / f"{name}.csv").write_text(f"participant,{name}\n{row}\n")
    status, _, err = probe(*arguments)
    assert status == 2 and message in err and err.count("\n") == 1
    assert not (copy / "student/export/probes").exists()


def test_runs_that_cannot_keep_a_probe_are_refused(probe, tmp_path):
    status, _, err = probe("--target", "hr_bpm", run="gs://bucket/run")
    assert status == 2 and "fetch the run by accdistill mirror pull" in err
    status, _, err = probe("--target", "hr_bpm", run=tmp_path / "none")
    assert status == 2 and "no folder" in err and err.count("\n") == 1


def test_segments_of_another_rate_are_refused(probe, tmp_path):
    accel = np.random.default_rng(0).normal(0, 0.003, (130 * 32, 3)) + [0, 0.6, 0.8]
    folder = tmp_path / "recordings" / "one"
    folder.mkdir(parents=True)
    np.savetxt(folder / "acc.csv", accel, "%.5f", ",", header="x,y,z", comments="")
    (folder / "recording.yaml").write_text(
        "participant: {id: p0}\ndevice: watch\n"
        "streams: {accel: {file: acc.csv, columns: [x, y, z], rate_hz: 32, unit: g}}\n"
    )
    length = ("--rate-hz", "32", "--segment-s", "120", "--hop-s", "120")
    assert prepare(["generic", str(folder.parent), "--out", str(tmp_path / "slow"), "--workers", "1", *length]) == 0
    status, _, err = probe("--target", "age", "--name", "years", store=tmp_path / "slow")
    assert status == 2 and "3840 samples at 32 Hz; the encoder reads 3840 at 64 Hz: prepare the recordings again" in err


def test_a_probe_with_the_name_of_a_read_out_is_not_loaded(probe, copy):
    """Earlier versions let a probe of `--target hr_bpm` take the place of the read-out, without its rules."""
    assert probe("--target", "hr_bpm", "--name", "rate", "--quiet")[0] == 0
    path = copy / "student" / "export" / "probes" / "rate.npz"
    with path.open("rb") as file:
        arrays = read_npz(file)
    arrays["about"] = np.array(str(arrays["about"]).replace('"rate"', '"hr_bpm"'))
    path.unlink()
    path.with_name("hr_bpm.npz").write_bytes(encode_npz(arrays))
    with pytest.raises(
        UserError, match=r"hr_bpm.npz.*name 'hr_bpm' of the probe: .*delete .* and repeat accdistill probe"
    ):
        ad.load(copy)
