"""Bad inputs, and the judgement of their outcomes."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

MAIN = "accdistill_jax.main"
PREPARE = "accdistill_jax.data.prepare"
# Output paths of `prepare --out {}/out`.
OUT = ("out", "out.partial")
# Files that mark a finished result.
_RESULTS = ("export.json", "report.md", "report.json", "manifest.json")
# Files that a refused run may append to.
_APPENDED = re.compile(r"(^|/)(metrics|tensorboard)/.")
# Files that a continued run rewrites, besides the files of the stage.
_RENEWED = ("config.json", "stages.json")
_ERROR = re.compile(r"(?:^|: )error: ")
_LIST_OF_RECORDINGS = re.compile(r"error: \d+ of \d+ recordings cannot be prepared:")


@dataclasses.dataclass(frozen=True)
class Case:
    """A bad input.

    Attributes:
        name: the damage, unique within a category and seed.
        module: the program that reads the input, `MAIN` or `PREPARE`.
        arguments: command line of the program; {} stands for the folder of the case.
        named: texts that the message must contain; alternatives are separated by "|", and {} stands for the folder.
        build: makes the bad input in the folder of the case, which exists and is empty.
        outputs: files or folders that the program may make; in those that exist, a program that refuses the input may only
            append to metrics and TensorBoard files, and increase the seconds of stages.json.
        falls_back: path of an export.json (RUN/STAGE/export/export.json) if the program may continue with an older checkpoint,
            after a warning that names the damage; it must write this file with the fingerprint `expected`, and may change only
            the records of that stage and of the run.
        expected: the fingerprint of that export.
    """

    name: str
    module: str
    arguments: tuple[str, ...]
    named: tuple[str, ...]
    build: Callable[[Path], None] = lambda folder: None
    outputs: tuple[str, ...] = ("run",)
    falls_back: str | None = None
    expected: str = ""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Exit status and output of a program; status None if it did not end and was killed."""

    status: int | None
    out: str
    error: str


class Content(NamedTuple):
    """A file: its size in bytes, the hash of its content, and the content of a small file (else b"")."""

    size: int
    digest: str
    text: bytes


def command(case: Case, folder: Path) -> list[str]:
    """The command line, with the folder of the case inserted."""
    return [argument.replace("{}", str(folder)) for argument in case.arguments]


def contents(folder: Path) -> dict[str, Content]:
    """Content of each file below a folder, by relative path."""
    return {
        path.relative_to(folder).as_posix(): _content(path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _content(data: bytes) -> Content:
    return Content(len(data), hashlib.sha256(data).hexdigest(), data if len(data) < 4096 else b"")


def wrong(case: Case, folder: Path, before: dict[str, Content], outcome: Outcome) -> str | None:
    """The fault of an outcome, as text; None if the outcome is right.

    Args:
        case: the case.
        folder: folder of the case, after the program ran.
        before: `contents(folder)` before the program ran.
        outcome: exit status and output of the program.
    """
    if outcome.status is None:
        return "does not end"
    if "Traceback" in outcome.error + outcome.out:
        return "traceback"
    if outcome.status == 0:
        return _wrong_going_on(case, folder, before, outcome)
    if outcome.status != 2:
        return f"exit status {outcome.status}"
    lines = outcome.error.strip().splitlines()
    errors = [line for line in lines if _ERROR.search(line)]
    if len(errors) != 1:
        return f"{len(errors)} lines of error"
    message = outcome.error[outcome.error.index(errors[0]) :]
    if errors[0] != lines[-1] and not _LIST_OF_RECORDINGS.match(errors[0]):
        return "more text behind the error line"
    missing = _missing(case, folder, message)
    if missing:
        return f"the message does not name {missing}"
    after = contents(folder)
    for name in sorted(before | after):
        if name not in before:
            if not _below(name, case.outputs):
                return f"{name} was made"
            if Path(name).name in _RESULTS:
                return f"{name} looks like a result"
        elif name not in after:
            return f"{name} was removed"
        elif before[name] != after[name] and not (_below(name, case.outputs) and _grown(name, before[name], folder)):
            return f"{name} was changed"
    return None


def _below(name: str, places: tuple[str, ...]) -> bool:
    return any(name == place or name.startswith(f"{place}/") for place in places)


def _grown(name: str, before: Content, folder: Path) -> bool:
    """True if a file of a run may grow, and still contains everything that it contained before."""
    data = (folder / name).read_bytes()
    if _APPENDED.search(name):
        return hashlib.sha256(data[: before.size]).hexdigest() == before.digest
    if Path(name).name != "stages.json":
        return False
    try:
        was, now = json.loads(before.text), json.loads(data)
        return all(now[stage] >= seconds for stage, seconds in was.items())
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def _wrong_going_on(case: Case, folder: Path, before: dict[str, Content], outcome: Outcome) -> str | None:
    if case.falls_back is None:
        return "silently accepted"
    missing = _missing(case, folder, outcome.error)
    if missing:
        return f"went on, and no warning names {missing}"
    result = folder / case.falls_back
    if not result.is_file() or json.loads(result.read_text())["fingerprint"] != case.expected:
        return f"went on, and {case.falls_back} is not what it was"
    run, stage = Path(case.falls_back).parts[:2]
    renewed = tuple(
        f"{run}/{name}"
        for name in (
            *_RENEWED,
            stage,
            f"metrics/{stage}.jsonl",
            f"metrics/{stage}.timing.jsonl",
            f"metrics/{stage}.sha256",
            f"tensorboard/{stage}",
        )
    )
    after = contents(folder)
    for name in sorted(before | after):
        if before.get(name) != after.get(name) and not _below(name, renewed):
            return (
                f"went on, and {name} was {'made' if name not in before else 'changed' if name in after else 'removed'}"
            )
    return None


def _missing(case: Case, folder: Path, text: str) -> str | None:
    for names in case.named:
        options = [name.replace("{}", str(folder)) for name in names.split("|")]
        if not any(option in text for option in options):
            return " or ".join(map(repr, options))
    return None
