"""accdistill embed: recordings into a table, whole or not at all, and continued after an interruption."""

import gzip
import json
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

import accdistill_jax as ad
from accdistill_jax.api.embed_command import main
from accdistill_jax.api.predict_command import main as predict
from accdistill_jax.data import recordings
from accdistill_jax.errors import SignalWarning, UserError
from tests.guides import REPOSITORY, blocks

HEADER = "x,y,z\n"


def csv(seconds=130, rate_hz=50, scale=1000.0, seed=0):
    """A still wrist in mg, as CSV."""
    signal = np.random.default_rng(seed).normal([0.0, 0.6, 0.8], 0.002, (seconds * rate_hz, 3)) * scale
    return HEADER + "\n".join(",".join(f"{value:.3f}" for value in row) for row in signal) + "\n"


@pytest.fixture
def watches(tmp_path):
    """Two recordings of two minutes."""
    folder = tmp_path / "watches"
    folder.mkdir()
    for number, name in enumerate(("anna", "ben")):
        (folder / f"{name}.csv").write_text(csv(seed=number))
    return folder


def embed(finished, *words):
    return main([str(finished), *map(str, words), "--workers", "1", "--quiet"])


def flags(out):
    return ("--out", out, "--rate-hz", "50", "--unit", "mg")


@pytest.mark.parametrize("stamped", [False, True])
def test_acceleration_unlike_the_training_data_is_reported(finished, tmp_path, capsys, stamped):
    signal = np.random.default_rng(0).normal([0.0, 0.6, 0.8], 0.002, (1300, 3))
    columns = np.column_stack([np.arange(1300) / 10, signal]) if stamped else signal
    header = "time,x,y,z" if stamped else "x,y,z"
    np.savetxt(tmp_path / "slow.csv", columns, "%.5f", ",", header=header, comments="")
    rate = () if stamped else ("--rate-hz", "10")
    limits = ("--max-gap-s", "inf", "--gap-s", "1")
    assert embed(finished, tmp_path / "slow.csv", *rate, "--out", tmp_path / "z.parquet", *limits) == 0
    remark = "recording slow: at 10 Hz the signal lacks most of the heartbeat"
    assert remark in capsys.readouterr().out
    if stamped:
        assert predict([str(finished), str(tmp_path / "slow.csv"), "--out", str(tmp_path / "z.csv")]) == 0
        assert remark in capsys.readouterr().out


def test_a_row_for_each_minute(finished, watches, tmp_path, capsys):
    out = tmp_path / "z.parquet"
    assert embed(finished, watches, *flags(out)) == 0
    table = pq.read_table(out)
    first = ["participant", "recording", "start", "quality", "motion", "embedding"]
    predicted = ["hr_bpm", "hr_bpm_low", "hr_bpm_high", "hr_bpm_unknown"]
    assert table.column_names[:10] == first + predicted
    assert table["participant"].to_pylist() == ["anna", "anna", "ben", "ben"]
    said = capsys.readouterr().out
    assert "2 recordings (plain): 4 of 4 minutes embedded" in said and "predictions: hr_bpm" in said
    encoder = ad.load(finished)
    embeddings = np.stack(table["embedding"].to_numpy())
    expected = encoder.predict_embeddings(embeddings, motion_g=table["motion"].to_numpy())["hr_bpm"]
    np.testing.assert_allclose(table["hr_bpm"].to_numpy(), expected.value)
    np.testing.assert_allclose(table["hr_bpm_high"].to_numpy(), expected.high)
    assert table["hr_bpm_unknown"].to_pylist() == expected.reason.tolist()
    alone = encoder.embed_recording(watches / "ben.csv", rate_hz=50, unit="mg")
    np.testing.assert_array_equal(np.stack(table["embedding"].to_numpy()[2:]), np.stack(alone["embedding"].to_numpy()))
    signal = np.loadtxt(watches / "ben.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(np.stack(alone["embedding"].to_numpy()), encoder.embed(signal, 50, unit="mg"), atol=1e-4)
    assert not list(tmp_path.glob("z.parquet.partial/*.part.parquet"))


@pytest.mark.slow
def test_a_finished_table_is_left_and_another_is_refused(finished, watches, tmp_path, capsys):
    out = tmp_path / "z.parquet"
    assert embed(finished, watches, *flags(out)) == 0
    content = out.read_bytes()
    assert embed(finished, watches, *flags(out)) == 0 and out.read_bytes() == content
    assert "already complete" in capsys.readouterr().out
    assert embed(finished, watches, *flags(out), "--max-motion-g", "0.05") == 2
    assert "was made otherwise" in capsys.readouterr().err and out.read_bytes() == content
    assert embed(finished, watches, *flags(out), "--max-motion-g", "0.05", "--overwrite") == 0
    out.write_text("mine")
    assert embed(finished, watches, *flags(out)) == 2 and out.read_text() == "mine"
    assert "another file is there" in capsys.readouterr().err


def others(folder):
    """Recordings of other people, under the names of `watches`."""
    folder.mkdir()
    for number, name in enumerate(("anna", "ben")):
        (folder / f"{name}.csv").write_text(csv(seed=10 + number))
    return folder


def test_a_table_of_other_files_is_not_taken_for_a_result(finished, watches, tmp_path, capsys):
    out, second = tmp_path / "z.parquet", others(tmp_path / "others")
    assert embed(finished, watches, *flags(out)) == 0
    content = out.read_bytes()
    assert embed(finished, second, *flags(out)) == 2 and out.read_bytes() == content
    said = "was not made from these files as they are (they lie in another folder; changed: anna.csv, ben.csv); choose"
    assert said in (error := capsys.readouterr().err) and "--overwrite" in error
    (watches / "ben.csv").write_text(csv(seed=7))
    assert embed(finished, watches, *flags(out)) == 2 and out.read_bytes() == content
    assert "as they are (changed: ben.csv)" in capsys.readouterr().err
    assert embed(finished, watches, *flags(out), "--overwrite") == 0 and out.read_bytes() != content
    metadata = pq.read_schema(out).metadata
    about = json.loads(metadata[b"accdistill_jax"])
    del about["files"]
    pq.write_table(pq.read_table(out).replace_schema_metadata({b"accdistill_jax": json.dumps(about)}), out)
    assert embed(finished, watches, *flags(out)) == 2
    assert "an earlier version made it and did not note its files" in capsys.readouterr().err


def test_parts_of_other_files_are_not_joined_and_a_repaired_recording_continues(finished, watches, tmp_path, capsys):
    out, second = tmp_path / "z.parquet", others(tmp_path / "others")
    for folder in (watches, second):
        (folder / "bad.csv").write_text(HEADER + "a,b,c\n")
    assert embed(finished, watches, *flags(out)) == 2 and "bad.csv" in capsys.readouterr().err
    assert embed(finished, second, *flags(out)) == 2
    said = capsys.readouterr().err
    assert "its recordings (anna, ben) were not embedded from these files as they are (they lie in another" in said
    assert "--overwrite" in said
    (watches / "bad.csv").write_text(csv(seed=5))
    assert embed(finished, watches, *flags(out)) == 0
    assert "2 of 3 recordings were embedded by an earlier start" in capsys.readouterr().out
    assert pq.read_table(out)["participant"].to_pylist() == ["anna", "anna", "bad", "bad", "ben", "ben"]


@pytest.mark.slow
def test_an_interrupted_command_continues(finished, watches, tmp_path, monkeypatch, capsys):
    from accdistill_jax.api import embed_files

    out, table = tmp_path / "z.parquet", embed_files.minute_table
    calls = []

    def stop_at_the_second(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return table(*arguments)

    monkeypatch.setattr(embed_files, "minute_table", stop_at_the_second)
    assert embed(finished, watches, *flags(out)) == 130
    assert not out.exists() and "run the same command again" in capsys.readouterr().err
    assert embed(finished, watches, *flags(out)) == 0 and len(calls) == 3
    assert "1 of 2 recordings were embedded by an earlier start" in capsys.readouterr().out
    other = tmp_path / "other.parquet"
    assert embed(finished, watches, *flags(other)) == 0
    assert pq.read_table(other).equals(pq.read_table(out))


@pytest.mark.slow
def test_a_failed_command_is_corrected_without_more_words(finished, watches, tmp_path, capsys):
    out = tmp_path / "z.parquet"
    assert embed(finished, watches, "--out", out, "--rate-hz", "50", "--unit", "g") == 2
    assert embed(finished, watches, *flags(out)) == 0, capsys.readouterr().err


def test_a_bad_recording_is_named_and_the_others_are_kept(finished, watches, tmp_path, capsys):
    (watches / "bad.csv").write_text(HEADER + "a,b,c\n")
    out = tmp_path / "z.parquet"
    assert embed(finished, watches, *flags(out)) == 2
    assert "bad.csv" in capsys.readouterr().err and not out.exists()
    assert embed(finished, watches, *flags(out), "--skip-bad") == 0
    assert "left out: recording bad" in capsys.readouterr().out and pq.read_table(out).num_rows == 4


@pytest.mark.slow
def test_without_read_outs_the_table_has_no_predictions_and_is_another_one(copy, watches, tmp_path, capsys):
    out = tmp_path / "z.parquet"
    assert embed(copy, watches, *flags(out)) == 0
    (copy / "student/export/readouts.npz").unlink()
    assert embed(copy, watches, *flags(out)) == 2
    assert "was made otherwise (read-outs" in capsys.readouterr().err
    assert embed(copy, watches, *flags(out), "--overwrite") == 0
    assert pq.read_table(out).column_names[-1] == "embedding"
    assert "no predictions of heart rate and the like: " in (said := capsys.readouterr().out) and "is missing" in said


def test_a_file_that_begins_without_numbers_is_told_so(finished, tmp_path, capsys):
    (tmp_path / "late.csv").write_text(HEADER + "nan,nan,nan\n" * 450 + csv().removeprefix(HEADER))
    assert embed(finished, tmp_path / "late.csv", *flags(tmp_path / "z.parquet")) == 2
    said = capsys.readouterr().err
    assert "late.csv" in said and "the rows up to line 400 hold no number ('nan,nan,nan')" in said


def test_a_reader_in_a_file(finished, tmp_path, capsys):
    folder = tmp_path / "my_watch"
    folder.mkdir()
    signal = np.random.default_rng(0).normal([1.0, 0, 600, 800], 2.0, (65 * 50, 4))
    np.savetxt(folder / "anna.mywatch", signal, fmt="%.3f", delimiter=",", header="green,x,y,z", comments="")
    reader, *_ = blocks(REPOSITORY / "accdistill_jax/data/README.md", "python")
    file, out = tmp_path / "outside_embed.py", tmp_path / "z.parquet"
    file.write_text(reader)
    try:
        assert embed(finished, folder, "--out", out, "--reader", file, "--wrist", "right") == 0
        assert "1 recordings (outside_embed): 1 of 1 minutes embedded" in capsys.readouterr().out
        assert pq.read_table(out)["participant"].to_pylist() == ["anna"]
        table = tmp_path / "predicted.csv"
        assert predict([str(finished), str(folder), "--out", str(table), "--reader", str(file)]) == 0
        assert table.read_text().count("anna") >= 1
        in_python = ad.load(finished).embed_recording(folder, reader=str(file), wrist="right")
        assert in_python["participant"].to_pylist() == ["anna"]
    finally:
        recordings.remove_file("outside_embed")
        sys.path.remove(str(tmp_path))


WRONG = {
    "no such file": (("absent.csv",), "no such file or folder"),
    "not a parquet name": (("watches", "--out", "z.csv"), "the result is a Parquet file"),
    "wrong unit": (("watches", "--unit", "g"), "mg"),
    "wrong rate": (("watches", "--rate-hz", "0"), "rate"),
    "rate as text": (("watches", "--rate-hz", "fast"), "fast"),
    "unknown reader": (("watches", "--reader", "empatica"), "empatica"),
    "another reader": (("watches", "--reader", "empatica_e4"), "no recordings|no session|BVP"),
    "unknown flag": (("watches", "--units", "mg"), "--units"),
    "too short": (("short.csv",), "no minute was embedded|too_short|shorter"),
    "a wrong column": (("watches", "--columns", "a,b,c"), "a|column"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_calls_end_in_a_line(finished, watches, tmp_path, monkeypatch, capsys, name):
    words, message = WRONG[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.csv").write_text(csv(seconds=20))
    defaults = ["--out", "z.parquet", "--rate-hz", "50", "--unit", "mg"]
    given = {word for word in words if word.startswith("--")}
    rest = [word for at in range(0, 6, 2) for word in defaults[at : at + 2] if defaults[at] not in given]
    if "--reader" in words:
        rest = rest[:2]
    try:
        status = embed(finished, *words, *rest)
    except SystemExit as stop:
        status = stop.code
    error = capsys.readouterr().err
    assert status == 2 and "Traceback" not in error and any(part in error for part in message.split("|")), error
    assert not (tmp_path / "z.parquet").exists()


def test_a_folder_without_a_run_is_named(watches, tmp_path, capsys):
    assert embed(tmp_path, watches, *flags(tmp_path / "z.parquet")) == 2
    assert "holds no run" in capsys.readouterr().err


def test_embed_recording_reads_compressed_files_and_names_what_it_cannot(finished, tmp_path):
    encoder = ad.load(finished)
    path = tmp_path / "watch.csv.gz"
    path.write_bytes(gzip.compress(csv().encode()))
    assert encoder.embed_recording(path, rate_hz=50, unit="mg").num_rows == 2
    moving = np.random.default_rng(0).normal([0, 600, 800], 200, (3000, 3))
    still = csv().split("\n", 3001)[3001]
    path.write_bytes(
        gzip.compress((HEADER + "\n".join(",".join(map(str, row)) for row in moving) + "\n" + still).encode())
    )
    with pytest.warns(SignalWarning, match="1 of 2 minutes are left out: 1 motion"):
        assert encoder.embed_recording(path, rate_hz=50, unit="mg").num_rows == 1
    with pytest.raises(UserError, match="no such file"):
        encoder.embed_recording(tmp_path / "absent.csv")
    (tmp_path / "notes.md").write_text("# notes")
    with pytest.raises(UserError, match=r"no reader knows|notes.md"):
        encoder.embed_recording(tmp_path / "notes.md")
