"""Compares two reports: `reproduce --check` checks a new one against the one it was given."""

import fnmatch
import gzip
import json
import math
import os
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from accdistill_jax.errors import UserError

KIND = "accdistill_jax.reproduce"
FORMAT_VERSION = 1
SETTINGS = ("preset", "seeds", "overrides", "generator_version", "data_fingerprints")
"""Settings of a report that must be the same in both for their numbers to be compared; absent ones count as None.
Fingerprints stand for stores, whose paths may differ; the generator's version for synthetic data, which need not be the same to
the bit on every machine."""
_PARTS = {"numbers": Mapping, "claims": list, "settings": Mapping, "runs": list}
_SHOWN = 20
_GZIP = b"\x1f\x8b"  # first bytes of a compressed file
_ROUNDING = 1e-9


class Deviation(NamedTuple):
    """A number or claim beside what it was.

    Attributes:
        name: of the number; the claim's words.
        reference: what the reference says.
        found: what the new report says.
        allowed: by how much they may differ; None where that is no question.
        share: of what is allowed that the difference takes: above 1 it has moved.
        why: what is wrong with it in words; "" while it is within.
        note: what else there is to say.
    """

    name: str
    reference: Any
    found: Any
    allowed: float | None
    share: float
    why: str
    note: str = ""


def load_report(path: str | os.PathLike) -> dict[str, Any]:
    """Reads a report.json, or a report.json.gz compressed by gzip.

    Args:
        path: the file; if it does not exist, the file with ".gz" added.

    Raises:
        UserError: no such file, no report, a damaged file, or a report of another format version.
    """
    try:
        content = _content(Path(path))
        report = json.loads(content.decode("utf-8"))
    except (gzip.BadGzipFile, EOFError, zlib.error) as problem:
        raise UserError(f"{path} is a damaged gzip file: {problem}") from problem
    except OSError as problem:
        raise UserError(f"cannot read {path}: {problem.strerror or problem}") from problem
    except (ValueError, RecursionError) as problem:
        raise UserError(f"{path} is no JSON, or a part of it is missing: {problem}") from problem
    if not isinstance(report, dict) or report.get("kind") != KIND:
        raise UserError(f"{path} is no report of python -m accdistill_jax.reproduce")
    if report.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{path} has format version {report.get('format_version')}; this version of the package reads {FORMAT_VERSION}"
        )
    _check_parts(report, path)
    return report


def _content(path: Path) -> bytes:
    """Bytes of a file, or of the compressed file beside its name; decompressed."""
    packed = Path(f"{path}.gz")
    content = (packed if packed.exists() and not path.exists() else path).read_bytes()
    return gzip.decompress(content) if content.startswith(_GZIP) else content


def _check_parts(report: Mapping[str, Any], path: str | os.PathLike) -> None:
    for part, kind in _PARTS.items():
        if not isinstance(report.get(part), kind):
            raise UserError(f"{path}: {part!r} is missing or of the wrong kind")
    for name, number in report["numbers"].items():
        try:
            values = number["value"], number["relative"], number["absolute"]
        except (KeyError, TypeError):
            values = ("",)
        if not all(value is None or _is_number(value) for value in values) or None in values[1:]:
            raise UserError(f"{path}: number {name!r} is incomplete: value, relative and absolute are needed")
    for claim in report["claims"]:
        if not isinstance(claim, Mapping) or not {"claim", "holds"} <= set(claim):
            raise UserError(f"{path}: a claim is incomplete: {claim!r}")


def compare_reports(
    reference: Mapping[str, Any], found: Mapping[str, Any], *, only: Sequence[str] = ()
) -> list[Deviation]:
    """Differences: the numbers and claims of two reports that do not agree within the reference's tolerance.

    Args:
        reference: content of a report.json.
        found: that of the report made again.
        only: ids of the experiments that were made again, globs allowed; numbers of others are not compared, nor claims
            that are not measured by these. Empty: all.

    Returns:
        The farthest moved first.

    Raises:
        UserError: the two were not made alike, so that nothing follows from their difference.
    """
    return [one for one in deviations(reference, found, only=only) if one.why]


def deviations(reference: Mapping[str, Any], found: Mapping[str, Any], *, only: Sequence[str] = ()) -> list[Deviation]:
    """All that `compare_reports` compares, the largest share of its tolerance first."""
    check_alike(reference["settings"], found["settings"])
    before, now = ({n: v for n, v in r["numbers"].items() if _is_of(n, only)} for r in (reference, found))
    pairs = [_number(name, before.get(name), now.get(name)) for name in before | now]
    moved = {one.name.partition("/")[0] for one in pairs if one.why}
    pairs += _claims(reference["claims"], found["claims"], moved, partly=bool(only))
    return sorted(pairs, key=lambda one: -one.share)


def check_alike(reference: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Raises UserError naming the settings by which two reports cannot be compared."""
    other = [key for key in SETTINGS if _plain(reference.get(key)) != _plain(found.get(key))]
    if other:
        what = "; ".join(f"{key} {_text(reference.get(key))} there, {_text(found.get(key))} here" for key in other)
        raise UserError(f"the reports cannot be compared: {what}")


def _is_of(name: str, only: Sequence[str]) -> bool:
    return not only or any(fnmatch.fnmatchcase(name.partition("/")[0], pattern) for pattern in only)


def _number(name: str, before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> Deviation:
    if before is None or now is None:
        there, here = (None if side is None else side["value"] for side in (before, now))
        why = "is new: the reference has no such number" if before is None else "is missing"
        return Deviation(name, there, here, None, math.inf, why)
    there, here = before["value"], now["value"]
    if there is None or here is None:
        why = "" if there is here else "was not measurable" if there is None else "is not measurable any more"
        return Deviation(name, there, here, None, math.inf if why else 0.0, why)
    allowed, difference = before["absolute"] + before["relative"] * abs(there), abs(here - there)
    share = difference / allowed if allowed else math.inf if difference else 0.0
    return Deviation(name, there, here, allowed, share, "moved" if share > 1 + _ROUNDING else "")


def _claims(
    before: Sequence[Mapping], now: Sequence[Mapping], moved: Collection[str], *, partly: bool
) -> list[Deviation]:
    """Claims beside what they were. One that turned while all numbers of its section agree lay at the edge of its rule."""
    there, here = ({claim["claim"]: claim for claim in claims} for claims in (before, now))
    pairs = []
    for claim in there | here:
        old, new = ({"holds": None} | own.get(claim, {}) for own in (there, here))
        if partly and new["holds"] in (None, "not measured"):
            continue
        why, note = "", ""
        if old["holds"] != new["holds"]:
            section = old.get("section", "")
            if None in (old["holds"], new["holds"]):
                why = "is another claim"
            elif section and section not in moved and "not measured" not in (old["holds"], new["holds"]):
                note = "holds differently, by a threshold between two numbers that agree"
            else:
                why = "holds differently"
        pairs.append(
            Deviation(claim, old["holds"], new["holds"], None, math.inf if why else 1.0 if note else 0.0, why, note)
        )
    return pairs


def comparison_table(found: Sequence[Deviation], *, shown: int = _SHOWN) -> str:
    """The first of `deviations` as a Markdown table, and a line that counts them."""
    moved = sum(bool(one.why) for one in found)
    rows = [("", "Reference", "Found", "Allowed", "Of it", "")]
    rows += [
        (
            one.name,
            _text(one.reference),
            _text(one.found),
            "" if one.allowed is None else f"± {one.allowed:.3g}",
            f"{100 * one.share:.0f} %" if math.isfinite(one.share) and one.allowed is not None else "",
            one.why.upper() if one.why == "moved" else one.why or one.note,
        )
        for one in found[: max(shown, min(moved, 5 * shown))]
    ]
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    rest = len(found) - len(rows) + 1
    lines += [f"... and {rest} more" + (", all closer" if moved < len(rows) else "")] if rest else []
    count = (
        f"{moved} of {len(found)} numbers and claims moved" if moved else f"all {len(found)} numbers and claims agree"
    )
    return "\n".join([*lines, "", f"{count} (largest differences first)."])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(_plain(value))
