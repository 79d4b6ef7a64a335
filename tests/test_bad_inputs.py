"""A sample of the generated bad inputs (all of them: python -m tests.bad_inputs), and the judge of their outcomes.

ACCDISTILL_BAD_INPUTS_SEED chooses another sample, ACCDISTILL_BAD_INPUTS_COUNT its size.
"""

import itertools
import os
import random
import re
from pathlib import Path

import pytest

from tests.bad_inputs import runner
from tests.bad_inputs.bases import make_bases
from tests.bad_inputs.case import MAIN, PREPARE, Case, Outcome, contents, wrong
from tests.bad_inputs.generate import CATEGORIES, generate

SEED = int(os.environ.get("ACCDISTILL_BAD_INPUTS_SEED", "0"))
COUNT = int(os.environ.get("ACCDISTILL_BAD_INPUTS_COUNT", "60"))


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    return make_bases(tmp_path_factory.mktemp("bad_inputs") / "bases")


@pytest.fixture(scope="module")
def two_at_a_time():
    with runner.Runner(jobs=2) as running:
        yield running


@pytest.mark.slow
@pytest.mark.parametrize("category", CATEGORIES)
def test_every_bad_input_ends_in_one_clear_line(bases, two_at_a_time, tmp_path, category):
    cases = generate(COUNT, seed=SEED, bases=bases)[category]
    results = list(two_at_a_time.run(cases, tmp_path, bases=bases.store.parent))
    assert len(results) == len(cases) >= COUNT * CATEGORIES[category][0] // 330
    failed = [
        f"{result.case.name}: {result.wrong}: {result.outcome.error[-500:]}" for result in results if result.wrong
    ]
    assert not failed, "\n".join([f"{len(failed)} of {len(cases)}, seed {SEED}", *failed])


@pytest.mark.slow
def test_a_seed_always_gives_the_same_distinct_cases(bases):
    names = {
        seed: {key: [case.name for case in own] for key, own in generate(330, seed=seed, bases=bases).items()}
        for seed in (0, 1)
    }
    assert names[0] == {key: [case.name for case in own] for key, own in generate(330, seed=0, bases=bases).items()}
    for category, (share, _) in CATEGORIES.items():
        assert len(set(names[0][category])) == share
        assert names[0][category] != names[1][category]
    for key, own in generate(60, seed=0, bases=bases).items():
        assert [case.name for case in own] == names[0][key][: len(own)]


@pytest.mark.slow
def test_every_kind_of_damage_changes_what_it_damages(bases, tmp_path):
    """`build` raises an error if it changes nothing."""
    for category, (_, cases) in CATEGORIES.items():
        for number, case in enumerate(itertools.islice(cases(random.Random(5), bases), 40)):
            folder = tmp_path / category / str(number)
            folder.mkdir(parents=True)
            case.build(folder)


# The judge


CASE = Case("a case", PREPARE, (), ("{}/in.csv|in.csv:", "line 3"), outputs=("out",))
GOOD = "error: in.csv: line 3: wrong\n"


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "in.csv").write_text("1")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "before").write_text("2")
    return tmp_path


def judge(
    folder: Path, *, status: int | None = 2, error: str = GOOD, after=lambda: None, case: Case = CASE
) -> str | None:
    before = contents(folder)
    after()
    return wrong(case, folder, before, Outcome(status, "", error))


def test_what_is_right(folder):
    assert judge(folder) is None
    assert judge(folder, error="warning: slow\n" + GOOD) is None
    assert judge(folder, error="usage: prepare\nprepare: " + GOOD) is None
    assert (
        judge(folder, error="error: 2 of 3 recordings cannot be prepared:\n  a: in.csv: line 3\n  b: x\nrepair them\n")
        is None
    )
    assert judge(folder, after=lambda: (folder / "out" / "new").write_text("")) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"status": None}, "does not end"),
        ({"status": 0}, "silently accepted"),
        ({"status": 1}, "exit status 1"),
        ({"status": -9}, "exit status -9"),
        ({"error": "Traceback (most recent call last):\n" + GOOD}, "traceback"),
        ({"error": ""}, "0 lines of error"),
        ({"error": GOOD + GOOD}, "2 lines of error"),
        ({"error": GOOD + "more\n"}, "more text behind"),
        ({"error": "error: in.csv: wrong\n"}, "does not name 'line 3'"),
        ({"error": "error: line 3\n"}, "does not name '/.*in.csv' or 'in.csv:'"),
    ],
)
def test_outcomes_that_are_wrong(folder, changes, message):
    assert re.search(message, judge(folder, **changes))


def test_damage_that_is_wrong(folder):
    assert judge(folder, after=lambda: (folder / "in.csv").write_text("2")) == "in.csv was changed"
    assert judge(folder, after=lambda: (folder / "more").write_text("")) == "more was made"
    assert judge(folder, after=lambda: (folder / "out" / "before").unlink()) == "out/before was removed"
    assert (
        judge(folder, after=lambda: (folder / "out" / "manifest.json").write_text(""))
        == "out/manifest.json looks like a result"
    )
    assert judge(folder, after=lambda: (folder / "out2").write_text("")) == "out2 was made"


RUN = Case("a case", MAIN, (), ("in.csv",), falls_back="run/teacher/export/export.json", expected="abc")
FILES = {
    "run/config.json": "{}",
    "run/stages.json": '{"data": 1.5}',
    "run/metrics/teacher.jsonl": "1\n2\n",
    "run/metrics/student.jsonl": "3\n",
    "run/tensorboard/teacher/events": "4",
    "run/teacher/export/export.json": '{"fingerprint": "abc"}',
    "run/teacher/checkpoints/6.json": "{}",
    "run/student/export/export.json": "{}",
    "run/report.md": "5",
    "other/file": "6",
}


@pytest.fixture
def run_folder(tmp_path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("run/metrics/teacher.jsonl", "1\n2\n3\n", None),
        ("run/metrics/teacher.jsonl", "1\n", "was changed"),
        ("run/metrics/teacher.jsonl", "1\n3\n3\n", "was changed"),
        ("run/metrics/teacher.jsonl", None, "was removed"),
        ("run/tensorboard/teacher/events", "45", None),
        ("run/tensorboard/teacher/events", "", "was changed"),
        ("run/tensorboard/teacher/more", "4", None),
        ("run/config.json", '{"a": 1}', "was changed"),
        ("run/config.json", None, "was removed"),
        ("run/stages.json", '{"data": 2.5, "teacher": 1}', None),
        ("run/stages.json", '{"teacher": 1}', "was changed"),
        ("run/stages.json", "[]", "was changed"),
        ("run/teacher/checkpoints/6.json", "", "was changed"),
        ("run/report.md", "55", "was changed"),
        ("other/file", "66", "was changed"),
        ("run/teacher/export/new", "", None),
    ],
)
def test_a_refused_run_may_only_append_to_its_records(run_folder, name, text, message):
    path = run_folder / name
    change = (lambda: path.unlink()) if text is None else (lambda: path.write_text(text))
    fault = judge(run_folder, case=RUN, error="error: in.csv: wrong\n", after=change)
    assert fault == (message and f"{name} {message}")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("run/config.json", '{"a": 1}', None),
        ("run/stages.json", "{}", None),
        ("run/metrics/teacher.jsonl", "1\n", None),
        ("run/tensorboard/teacher/more", "4", None),
        ("run/teacher/checkpoints/6.json", None, None),
        ("run/metrics/student.jsonl", "3\n3\n", "was changed"),
        ("run/student/export/export.json", "", "was changed"),
        ("run/report.md", None, "was removed"),
        ("run/new", "", "was made"),
        ("other/file", None, "was removed"),
        ("other/file", "7", "was changed"),
        ("run/teacher2", "", "was made"),
    ],
)
def test_a_run_that_goes_on_changes_its_stage_only(run_folder, name, text, message):
    path = run_folder / name
    change = (lambda: path.unlink()) if text is None else (lambda: path.write_text(text))
    fault = judge(run_folder, case=RUN, status=0, error="warning: in.csv\n", after=change)
    assert fault == (message and f"went on, and {name} {message}")


def test_going_on_after_a_warning(folder):
    case = Case("a case", PREPARE, (), ("in.csv",), falls_back="out/teacher/export/export.json", expected="abc")
    export = folder / "out" / "teacher" / "export" / "export.json"
    export.parent.mkdir(parents=True)
    export.write_text('{"fingerprint": "abc"}')
    assert judge(folder, case=case, status=0, error="warning: in.csv is damaged\n") is None
    assert "no warning names 'in.csv'" in judge(folder, case=case, status=0, error="")
    export.write_text('{"fingerprint": "other"}')
    assert "is not what it was" in judge(folder, case=case, status=0, error="warning: in.csv is damaged\n")


@pytest.mark.slow
def test_a_program_that_hangs_is_ended(two_at_a_time, tmp_path, monkeypatch):
    """In a separate interpreter, and in a server."""
    monkeypatch.setattr(runner, "TIME_LIMIT_S", 1.0)
    monkeypatch.setattr(runner, "OWN_PROCESS_EVERY", 2)
    (tmp_path / "bases").mkdir()
    case = Case("a hanging program", "http.server", ("0", "--bind", "127.0.0.1"), ())
    results = list(two_at_a_time.run([case, case], tmp_path / "cases", bases=tmp_path / "bases"))
    assert [result.wrong for result in results] == ["does not end"] * 2


@pytest.mark.slow
def test_a_case_that_changes_the_bases_is_noticed(tmp_path):
    bases = tmp_path / "bases"
    bases.mkdir()
    case = Case("a case", "this", (), (), build=lambda folder: (bases / "x").write_text(""))
    with runner.Runner() as running, pytest.raises(AssertionError, match="has changed .*x"):
        list(running.run([case], tmp_path / "cases", bases=bases))
