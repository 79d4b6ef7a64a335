import io
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from accdistill_jax.errors import UserError
from accdistill_jax.runtime.progress import ProgressLine, format_seconds
from accdistill_jax.training.metrics import MetricsFiles, read_metrics
from accdistill_jax.training.throughput import Throughput


class Clock:
    """A clock that tests move."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def write(workdir, steps, *, resume_step=0):
    with MetricsFiles(workdir, "teacher", resume_step=resume_step, tensorboard=False) as writer:
        for step in steps:
            writer.write(step, "train", {"loss": np.float32(1 / step)}, timing={"seconds": 0.5})
            if step % 2 == 0:
                writer.write(step, "validation", {"loss": 2 / step})


def test_continued_file_equals_the_uninterrupted_one(tmp_path):
    write(tmp_path / "whole", range(1, 9))
    write(tmp_path / "parts", range(1, 7))  # reached step 6, but the last checkpoint is of step 4
    write(tmp_path / "parts", range(5, 9), resume_step=4)
    whole, parts = ((tmp_path / name / "metrics" / "teacher.jsonl").read_bytes() for name in ("whole", "parts"))
    assert whole == parts
    assert len(read_metrics(tmp_path / "parts" / "metrics" / "teacher.timing.jsonl")) == 8


def test_step_zero_starts_anew(tmp_path):
    write(tmp_path, range(1, 4))
    write(tmp_path, [1])
    assert [r["step"] for r in read_metrics(tmp_path / "metrics" / "teacher.jsonl")] == [1]


def test_torn_last_line_is_left_out_and_then_cut_away(tmp_path):
    write(tmp_path, range(1, 6))
    path = tmp_path / "metrics" / "teacher.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    assert [r["step"] for r in read_metrics(path)] == [1, 2, 2, 3, 4, 4]
    write(tmp_path, [5], resume_step=4)
    assert path.read_bytes() == whole


def test_line_cut_exactly_before_its_end_is_torn_too(tmp_path):
    write(tmp_path, range(1, 4))
    path = tmp_path / "metrics" / "teacher.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    assert [r["step"] for r in read_metrics(path)] == [1, 2, 2]


def test_a_run_that_is_refused_before_its_first_record_cuts_nothing(tmp_path):
    with MetricsFiles(tmp_path, "teacher") as writer:
        for step in range(1, 7):
            writer.write(step, "train", {"loss": 1 / step}, timing={"seconds": 0.5})
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for resume_step in (0, 4):
        with pytest.raises(UserError), MetricsFiles(tmp_path, "teacher", resume_step=resume_step):
            raise UserError("a batch cannot be read")
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_run_that_ends_well_without_a_record_is_cut(tmp_path):
    write(tmp_path, range(1, 7))
    write(tmp_path, [], resume_step=4)
    assert [r["step"] for r in read_metrics(tmp_path / "metrics" / "teacher.timing.jsonl")] == [1, 2, 3, 4]


@pytest.mark.parametrize("line", ["[1]\n", "5\n", '{"data": ', "\0\0\0"])
def test_an_unreadable_last_line_is_named_in_a_warning(tmp_path, caplog, line):
    write(tmp_path, range(1, 4))
    path = tmp_path / "metrics" / "teacher.jsonl"
    path.write_text(path.read_text() + line)
    assert len(read_metrics(path)) == 4
    assert f"{path}: line 5, the last, is unreadable" in caplog.text


def test_damaged_line_in_the_middle_is_named(tmp_path):
    write(tmp_path, range(1, 4))
    path = tmp_path / "metrics" / "teacher.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], "{broken\n", *lines[1:]]))
    with pytest.raises(UserError, match=r"teacher\.jsonl line 2"):
        read_metrics(path)


def test_values_survive_exactly_and_files_are_strict_json(tmp_path):
    values = {"a": 0.1, "b": float(np.float32(1 / 3)), "c": math.inf, "d": math.nan}
    with MetricsFiles(tmp_path, "student", tensorboard=False) as writer:
        writer.write(3, "train", values)
    path = tmp_path / "metrics" / "student.jsonl"

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    json.loads(path.read_text(), parse_constant=refuse)
    (record,) = read_metrics(path)
    assert record["kind"] == "train" and record["step"] == 3
    assert {k: record[k] for k in "abc"} == {k: values[k] for k in "abc"} and math.isnan(record["d"])


def test_tensorboard_receives_the_scalars(tmp_path):
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c  # noqa: F401  (the writer's own format)

    with MetricsFiles(tmp_path, "teacher") as writer:
        writer.write(7, "train", {"loss": 0.25})
    (path,) = (tmp_path / "tensorboard" / "teacher").iterdir()
    found, data, position = [], path.read_bytes(), 0
    while position < len(data):
        length = int.from_bytes(data[position : position + 8], "little")
        event = Event.FromString(data[position + 12 : position + 12 + length])
        found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
        position += 16 + length
    assert found == [(7, "train/loss", 0.25)]


LIMITED = """
import resource, sys
from accdistill_jax.errors import UserError
from accdistill_jax.training.metrics import MetricsFiles
try:
    with MetricsFiles(sys.argv[1], "teacher", tensorboard=sys.argv[2] == "board") as writer:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
        for step in range(1, 10_000):
            writer.write(step, "train", {"loss": 1.0})
            writer.flush()
except UserError as error:
    print(error, end="")
"""


@pytest.mark.parametrize(("board", "limit"), [("board", 500), ("none", 3000)])
def test_full_disk_is_one_error_and_no_waiting(tmp_path, board, limit):
    """Files that cannot grow: first TensorBoard's (it holds more bytes a step), then the JSON lines."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, tmp_path, board, str(limit)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"cannot write metrics in {tmp_path}/metrics: File too large"


def test_unwritable_folder_is_named(tmp_path):
    (tmp_path / "metrics").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="cannot write metrics in .*metrics"):
        MetricsFiles(tmp_path, "teacher", tensorboard=False)


def test_throughput_leaves_the_first_step_out():
    clock = Clock()
    throughput = Throughput(32, clock=clock)
    clock.now += 60.0  # compilation
    throughput.input_waited(5.0)
    throughput.step_done()
    assert math.isnan(throughput.segments_per_s)
    for _ in range(4):
        clock.now += 0.5
        throughput.input_waited(0.1)
        throughput.step_done()
    assert throughput.total() == pytest.approx((2.0, 64.0, 0.2))
    assert throughput.snapshot()["segments_per_s"] == pytest.approx(64.0)
    clock.now += 2.0
    throughput.step_done()
    assert throughput.snapshot() == pytest.approx({"seconds": 2.0, "segments_per_s": 16.0, "input_wait_fraction": 0.0})
    assert throughput.segments_per_s == pytest.approx(5 * 32 / 4.0)


def test_plain_progress_tells_the_time_left_without_compilation():
    clock, stream = Clock(), io.StringIO()
    with ProgressLine("teacher", 101, stream=stream, clock=clock) as progress:
        clock.now += 60
        progress.update(1, loss=1.0)
        for step in range(2, 52):
            clock.now += 1
            progress.update(step, loss=0.5, segments_per_s=32.0)
        clock.now += 50
        progress.update(101, loss=0.25)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "teacher  step 1/101  loss 1  time left unknown"
    assert lines[1] == "teacher  step 11/101  loss 0.5  32 segments/s  1 min 30 s left"
    assert lines[-1] == "teacher  step 101/101  loss 0.25  done in 2 min 40 s"
    assert len(lines) == 7


def test_terminal_gets_one_live_line():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    with ProgressLine("student", 10, stream=stream) as progress:
        progress.update(4, loss=0.125, segments_per_s=8.0)
    assert "student" in stream.getvalue() and "4/10" in stream.getvalue() and "0.125" in stream.getvalue()


def test_format_seconds():
    assert [format_seconds(s) for s in (0.4, 59.4, 65, 3600, 7805)] == [
        "0 s",
        "59 s",
        "1 min 05 s",
        "1 h 00 min",
        "2 h 10 min",
    ]


def test_tensorboards_library_does_not_bring_pytorch_along(tmp_path):
    code = (
        "import sys; from pathlib import Path; from accdistill_jax.training.metrics import MetricsFiles\n"
        f"with MetricsFiles({str(tmp_path)!r}, 'teacher') as writer: writer.write(1, 'train', {{'loss': 1.0}})\n"
        "print([name for name in sys.modules if name.split('.')[0] == 'torch'])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]" and list(tmp_path.rglob("events*"))
