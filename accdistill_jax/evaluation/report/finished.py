"""Checks that a written report is complete: `report/made_from` holds its key and the checksum of each of its files."""

import hashlib
import json
import re
from pathlib import Path

from accdistill_jax.errors import UserError
from accdistill_jax.files import read_regular, write_atomically

_MARK = "report/made_from"
_TEXTS = ("report.md", "report.json")
_EARLIER_KEY = re.compile(r"[0-9a-f]{16}")  # earlier versions wrote the key without checksums
_NAME = re.compile(r"report\.(?:md|json)|report/[a-z_]+\.png")


def mark_finished(folder: Path, key: str) -> None:
    """Marks a report as complete.

    Args:
        folder: folder of the report.
        key: hash of the inputs of the report.

    Raises:
        UserError: the mark cannot be written.
    """
    mark = folder / _MARK
    try:
        pictures = json.loads(read_regular(folder / "report.json"))["pictures"].values()
        files = {name: _digest(folder / name) for name in (*_TEXTS, *pictures)}
        write_atomically(mark, json.dumps({"key": key, "files": files}, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {mark}: {error.strerror or error}") from error


def unmark(folder: Path) -> None:
    """Removes the mark before a report is written."""
    (folder / _MARK).unlink(missing_ok=True)


def is_finished(folder: Path, key: str) -> tuple[bool, str]:
    """Checks for a complete report made from the inputs `key`.

    A report of an earlier version has no checksums. It is complete if its files exist and report.json can be read.

    Returns:
        (finished, damage): True for a complete report; the damage in words, or "" if there is none.
    """
    mark = folder / _MARK
    try:
        text = read_regular(mark).decode()
        if text == key:
            return _earlier_is_whole(folder)
        if _EARLIER_KEY.fullmatch(text):
            return False, ""
        record = json.loads(text)
        files = record["files"]
        if record["key"] != key:
            return False, ""
        if not set(_TEXTS) <= files.keys() or not all(map(_NAME.fullmatch, files)):
            raise ValueError("files are missing in the mark")
    except FileNotFoundError:
        return False, ""
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False, f"{mark} cannot be read"
    for name, digest in files.items():
        try:
            if _digest(folder / name) != digest:
                return False, f"{folder / name} was changed after it was written"
        except FileNotFoundError:
            return False, f"{folder / name} is missing"
        except OSError as error:
            return False, f"{folder / name} cannot be read ({error.strerror or error})"
    return True, ""


def _earlier_is_whole(folder: Path) -> tuple[bool, str]:
    try:
        pictures = json.loads(read_regular(folder / "report.json"))["pictures"].values()
        missing = [name for name in ("report.md", *pictures) if not (folder / name).is_file()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False, f"{folder / 'report.json'} cannot be read"
    return not missing, f"{folder / missing[0]} is missing" if missing else ""


def _digest(path: Path) -> str:
    return hashlib.sha256(read_regular(path)).hexdigest()
