"""A finished work directory of which something was spoilt: recognised and made again, or named in a line; nothing trained."""

import json
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from accdistill_jax.errors import UserError
from accdistill_jax.evaluation.report.finished import is_finished, mark_finished, unmark
from accdistill_jax.run import run
from accdistill_jax.stages import embedding
from accdistill_jax.storage.checked_npz import encode_npz
from accdistill_jax.training.metrics import MetricsFiles, read_metrics
from accdistill_jax.training.metrics_sums import check_records, spoilt_files, sums_path

PNG = b"\x89PNG" + bytes(100)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def flip(path: Path, at: int = -50) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def evaluation(folder: Path) -> dict:
    found = json.loads((folder / "report.json").read_text())["evaluation"]
    del found["seconds"]
    return found


# The whole program


@pytest.mark.slow
def test_everything_that_can_be_made_again_is(copy, smoke_config, no_training, capsys):
    """Of one start: a report cut, embeddings with the bit that says encrypted, TensorBoard's files gone."""
    before = evaluation(copy)
    report = copy / "report.json"
    report.write_bytes(report.read_bytes()[:-100])
    encrypted = bytearray((copy / "embeddings/main.npz").read_bytes())
    encrypted[encrypted.rindex(b"PK\1\2") + 8] |= 1
    (copy / "embeddings/main.npz").write_bytes(encrypted)
    shutil.rmtree(copy / "tensorboard")
    run(smoke_config(), copy)
    out = capsys.readouterr().out
    assert f"evaluation: {copy}/embeddings/main.npz is damaged (it does not match its checksum): embedded again" in out
    assert f"report: {report} was changed after it was written: the report is made again" in out
    for stage in ("teacher", "student"):
        assert f"{stage}: {copy}/tensorboard/{stage}/events" in out and "made again from the metrics" in out
        assert list((copy / "tensorboard" / stage).iterdir())
    assert evaluation(copy) == before
    whole = contents(copy / "report")
    run(smoke_config(), copy)
    out = capsys.readouterr().out
    assert "is finished before" in out and "again" not in out and contents(copy / "report") == whole


@pytest.mark.slow
def test_a_changed_line_of_metrics_is_named_and_no_curve(copy, smoke_config, no_training, capsys):
    path = copy / "metrics/student.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    lines[1] = lines[1].replace('"step": ', '"step": 1')
    path.write_text("".join(lines))
    for _ in range(2):
        run(smoke_config(), copy)
        assert (
            f"warning: {path} was changed after it was written; restore it from a copy, or delete"
            in capsys.readouterr().out
        )
    assert path.read_text() == "".join(lines)
    sums_path(copy, "student").unlink()
    run(smoke_config(), copy)
    assert "warning" not in capsys.readouterr().out


def test_a_config_copy_that_cannot_be_read_is_named(copy, smoke_config, no_training):
    path = copy / "config.json"
    content = path.read_text()
    for spoilt in (content[:-30], "[" * 100_000, '{"config": ' + "9" * 10_000 + "}", "{}"):
        path.write_text(spoilt)
        with pytest.raises(UserError, match=r"config.json cannot be read as a run's config .*; restore or delete it"):
            run(smoke_config(), copy)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(UserError, match="config.json cannot be read as a run's config .*not a regular file"):
        run(smoke_config(), copy)


# The report


@pytest.fixture
def report(tmp_path) -> Path:
    (tmp_path / "report").mkdir()
    (tmp_path / "report/map.png").write_bytes(PNG)
    (tmp_path / "report.json").write_text(json.dumps({"pictures": {"map": "report/map.png"}}))
    (tmp_path / "report.md").write_text("# good")
    mark_finished(tmp_path, "key")
    return tmp_path


@pytest.mark.parametrize("name", ["report.md", "report.json", "report/map.png"])
def test_a_report_is_whole_or_says_what_is_not(report, name):
    assert is_finished(report, "key") == (True, "")
    assert is_finished(report, "other") == (False, "")
    flip(report / name, -1)
    assert is_finished(report, "key") == (False, f"{report / name} was changed after it was written")
    (report / name).write_bytes(b"")
    assert is_finished(report, "key") == (False, f"{report / name} was changed after it was written")
    (report / name).unlink()
    assert is_finished(report, "key") == (False, f"{report / name} is missing")
    (report / name).symlink_to("/dev/zero")
    assert is_finished(report, "key") == (False, f"{report / name} cannot be read (not a regular file)")
    unmark(report)
    assert is_finished(report, "key") == (False, "")


@pytest.mark.parametrize(
    "mark",
    [
        "",
        "x" * 16,
        "[" * 100_000,
        "{}",
        '{"key": "key", "files": []}',
        '{"key": "key", "files": {}}',
        "\0",
        '{"key": "key", "files": {"report.md": "0", "report.json": "0", "../secret": "0"}}',
    ],
)
def test_a_mark_that_cannot_be_read(report, mark):
    (report / "report/made_from").write_text(mark)
    assert is_finished(report, "key") == (False, f"{report}/report/made_from cannot be read")


def test_a_report_of_an_earlier_version(report):
    (report / "report/made_from").write_text("key")
    assert is_finished(report, "key") == (True, "")
    (report / "report/made_from").write_text("86f6249094435ee0")
    assert is_finished(report, "0" * 16) == (False, ""), "made from something else, and not damaged"
    (report / "report/made_from").write_text("key")
    (report / "report/map.png").unlink()
    assert is_finished(report, "key") == (False, f"{report}/report/map.png is missing")
    (report / "report.json").write_text("{")
    assert is_finished(report, "key") == (False, f"{report}/report.json cannot be read")


# The records of a stage


@pytest.fixture
def recorded(tmp_path) -> Path:
    with MetricsFiles(tmp_path, "teacher") as writer:
        for step in (1, 2, 3):
            writer.write(step, "train", {"loss": 1 / step}, timing={"seconds": float(step)})
    return tmp_path


def read(workdir: Path) -> dict:
    return {
        name: read_metrics(workdir / f"metrics/teacher{end}")
        for name, end in (("metrics", ".jsonl"), ("timing", ".timing.jsonl"))
    }


def said(workdir: Path) -> list[str]:
    return list(check_records(workdir, "teacher", spoilt_files(workdir, "teacher"), read=lambda: read(workdir)))


def test_whole_records_say_nothing(recorded):
    assert said(recorded) == [] and spoilt_files(recorded, "student") == {}
    assert len(sums_path(recorded, "teacher").read_text().splitlines()) == 3


@pytest.mark.parametrize("name", ["metrics/teacher.jsonl", "metrics/teacher.timing.jsonl"])
def test_a_spoilt_record_is_named(recorded, name):
    for spoil, what in ((lambda path: flip(path, 9), "was changed after it was written"), (Path.unlink, "is missing")):
        spoil(recorded / name)
        assert said(recorded) == [
            f"warning: {recorded / name} {what}; restore it from a copy, or delete "
            f"{recorded}/metrics/teacher.sha256 to take it as it is"
        ]
    shutil.rmtree(recorded / "tensorboard")
    assert "there are no whole records to make it again from" in said(recorded)[1]


@pytest.mark.parametrize("content", [b"", b"\xff", b"00  teacher.jsonl\n", bytes(9)])
def test_checksums_that_cannot_be_read_are_named(recorded, content):
    sums_path(recorded, "teacher").write_bytes(content)
    [line] = said(recorded)
    assert line.startswith(f"warning: {recorded}/metrics/teacher.sha256 cannot be read")


def test_tensorboard_s_files_are_made_again_with_the_same_values(recorded):
    [board] = (recorded / "tensorboard/teacher").iterdir()
    before = scalars(board)
    for spoil in (Path.unlink, flip, lambda path: path.write_bytes(b"")):
        spoil(next((recorded / "tensorboard/teacher").iterdir()))
        [line] = said(recorded)
        assert "made again from the metrics" in line
        [board] = (recorded / "tensorboard/teacher").iterdir()
        assert scalars(board) == before
        assert said(recorded) == []


def scalars(path: Path) -> set:
    """(step, tag, value) of an event file."""
    from tensorboardX.proto.event_pb2 import Event

    content, found = path.read_bytes(), set()
    while content:
        [length] = struct.unpack("<Q", content[:8])
        event = Event.FromString(content[12 : 12 + length])
        found |= {(event.step, value.tag, value.simple_value) for value in event.summary.value}
        content = content[16 + length :]
    return found


def test_a_stage_that_goes_on_has_no_checksums_until_it_ends(recorded):
    with pytest.raises(RuntimeError), MetricsFiles(recorded, "teacher", resume_step=2) as writer:
        assert sums_path(recorded, "teacher").exists()
        writer.write(3, "train", {"loss": 5.0})
        raise RuntimeError
    assert not sums_path(recorded, "teacher").exists()
    with MetricsFiles(recorded, "teacher", resume_step=2) as writer:
        writer.write(3, "train", {"loss": 5.0})
    assert said(recorded) == []


# Embeddings


COUNTS = {"train": 3, "test": 2}


@pytest.fixture
def embedded() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {
        f"{encoder}/{split}/embedding": rng.normal(size=(count, 4)).astype(np.float32)
        for encoder in ("teacher", "student")
        for split, count in COUNTS.items()
    }
    return arrays | {
        "student/test/projection": np.ones((2, 5), np.float32),
        "student/test/rank/accel->ppg": np.arange(2),
    }


def load(path: Path, key: str = "key") -> tuple[dict | None, list[str]]:
    lines = []
    found = embedding.load_embeddings(path, key, encoders=("teacher", "student"), counts=COUNTS, say=lines.append)
    return found, lines


def test_embeddings_are_read_or_named_as_damaged(tmp_path, embedded):
    path = tmp_path / "main.npz"
    assert load(path) == (None, [])
    embedding.save_embeddings(path, "key", embedded)
    content = path.read_bytes()
    found, lines = load(path)
    assert (
        lines == []
        and all(np.array_equal(found[name], value) for name, value in embedded.items())
        and found.keys() == embedded.keys()
    )
    assert load(path, "other") == (None, [])
    for spoilt in (
        b"",
        content[:-10],
        content[:-73],
        content[:1000],
        b"garbage" * 100,
        bytes(5000),
        zlib.compress(content),
        b"\x93NUMPY" + content,
        content[:500] + bytes([content[500] ^ 1]) + content[501:],
    ):
        path.write_bytes(spoilt)
        found, [line] = load(path)
        assert (
            found is None and line.startswith(f"evaluation: {path} is damaged (") and line.endswith("): embedded again")
        )
    path.unlink()
    path.mkdir()
    assert load(path)[0] is None and "is damaged" in load(path)[1][0]


@pytest.mark.parametrize(
    "change",
    ["student/train/embedding", "teacher/test/embedding", "student/test/rank/accel->ppg", "student/test/projection"],
)
def test_embeddings_of_another_shape_are_not_taken(tmp_path, embedded, change):
    """Also in a file without a checksum, as earlier versions wrote."""
    path = tmp_path / "main.npz"
    for values in (embedded[change][:1], embedded[change].astype(np.complex64), embedded[change][None]):
        for content in (encode_npz({"key": np.array("key"), **embedded, change: values}),):
            for form in (content, content[:-73] + b"\0\0"):
                path.write_bytes(form)
                assert load(path)[0] is None and "is damaged" in load(path)[1][0]
    np.savez(path, key=np.array("key"), **embedded)
    assert load(path)[1] == []
    del embedded["teacher/train/embedding"]
    np.savez(path, key=np.array("key"), **embedded)
    assert "teacher/train/embedding is missing" in load(path)[1][0]
