"""The progress display of jobs."""

from io import StringIO

from accdistill_jax.reproduce.jobs.progress import JobsLine, JobsState, note

STATE = JobsState(finished=3, failed=1, total=9, running={"student-s0": 65.0}, left_s=400.0)


def test_the_note_beside_the_count():
    assert note(STATE) == "1 failed · about 6 min 40 s left · student-s0 1 min 05 s"
    assert note(STATE._replace(failed=0, running={}, stopping=True)) == "stopping"


def test_without_a_terminal_every_job_prints_a_line():
    stream = StringIO()
    with JobsLine(stream) as line:
        line.update(STATE)
        line.job_ended(STATE, "teacher", "finished in 5 s", failed=False)
        line.job_ended(STATE._replace(finished=8), "last", "failed: why", failed=True)
    assert stream.getvalue() == "[4/9] teacher: finished in 5 s; about 6 min 40 s left\n[9/9] last: failed: why\n"


def test_a_terminal_shows_one_line_and_the_failures(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    stream = StringIO()
    stream.isatty = lambda: True
    with JobsLine(stream) as line:
        line.update(STATE)
        line.job_ended(STATE, "teacher", "finished in 5 s", failed=False)
        line.job_ended(STATE, "student", "failed: [red]why", failed=True)
    shown = stream.getvalue()
    assert "3/9" in shown and "1 failed" in shown and "student: failed: [red]why\n" in shown and "teacher" not in shown
