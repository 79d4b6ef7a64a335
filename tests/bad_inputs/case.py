"""What a bad input is, and how its outcome is judged."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

MAIN = "accdistill_jax.main"
PREPARE = "accdistill_jax.data.prepare"
# What the program takes for something finished.
_RESULTS = ("export.json", "report.md", "report.json", "manifest.json")
# What every start of a run writes anew.
_REWRITTEN = re.compile(r"(^|/)(config\.json|stages\.json|metrics/.*|tensorboard/.*)$")
_ERROR = re.compile(r"(?:^|: )error: ")
_LIST_OF_RECORDINGS = re.compile(r"error: \d+ of \d+ recordings cannot be prepared:")


@dataclasses.dataclass(frozen=True)
class Case:
    """A bad input.

    Attributes:
      name: what was done, unique within a category and seed.
      module: the program that meets it, `MAIN` or `PREPARE`.
      arguments: its command line; {} stands for the case's own folder.
      named: what the message must name: of each item, one of the texts (separated by "|"); {} as above.
      build: makes the bad input in the case's own folder, which exists and is empty.
      outputs: names in the folder that the program may make or change.
      falls_back: the program may go on (with an older checkpoint), after a warning that names what is damaged; the
        text is the export.json in the folder that it must then write, with the fingerprint `expected`.
      expected: that fingerprint.
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
    """How a program ended; status None means that it had to be killed."""

    status: int | None
    out: str
    error: str


def command(case: Case, folder: Path) -> list[str]:
    """The command line with the case's folder put in."""
    return [argument.replace("{}", str(folder)) for argument in case.arguments]


def hashes(folder: Path) -> dict[str, str]:
    """Content hash of each file below a folder, by relative path."""
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file()}


def wrong(case: Case, folder: Path, before: dict[str, str], outcome: Outcome) -> str | None:
    """What is wrong with an outcome, in words; None where all is as it must be.

    Args:
      case: the case.
      folder: its folder, after the program.
      before: `hashes(folder)` before the program.
      outcome: of the program.
    """
    if outcome.status is None:
        return "does not end"
    if "Traceback" in outcome.error + outcome.out:
        return "traceback"
    if outcome.status == 0:
        return _wrong_going_on(case, folder, outcome)
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
    after = hashes(folder)
    for name in sorted(before | after):
        allowed = name.startswith(case.outputs) and (name not in before or _REWRITTEN.search(name))
        if before.get(name) != after.get(name) and not allowed:
            return f"{name} was {'changed' if name in before and name in after else 'made or removed'}"
        if name not in before and Path(name).name in _RESULTS:
            return f"{name} looks like a result"
    return None


def _wrong_going_on(case: Case, folder: Path, outcome: Outcome) -> str | None:
    if case.falls_back is None:
        return "silently accepted"
    missing = _missing(case, folder, outcome.error)
    if missing:
        return f"went on, and no warning names {missing}"
    result = folder / case.falls_back
    if not result.is_file() or json.loads(result.read_text())["fingerprint"] != case.expected:
        return f"went on, and {case.falls_back} is not what it was"
    return None


def _missing(case: Case, folder: Path, text: str) -> str | None:
    for names in case.named:
        options = [name.replace("{}", str(folder)) for name in names.split("|")]
        if not any(option in text for option in options):
            return " or ".join(map(repr, options))
    return None
