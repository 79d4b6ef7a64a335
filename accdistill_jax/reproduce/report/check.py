"""Compares two reports, for `reproduce --check`."""

import fnmatch
import gzip
import json
import math
import os
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from accdistill_jax.config.record import ABSENT, changed_values
from accdistill_jax.errors import UserError

KIND = "accdistill_jax.reproduce"
FORMAT_VERSION = 1
SETTINGS = ("preset", "seeds", "overrides", "generator_version", "data_fingerprints")
"""Settings that must be equal in two reports before their numbers are compared; a missing one counts as None.
Fingerprints identify stores, whose paths may differ. The generator's version identifies synthetic data, which may differ in
the last bits between machines."""
DECIDING = tuple(f"evaluation.{key}" for key in ("train_segments", "pool_sizes", "bootstrap_draws", "representation"))
"""Keys that a run may change when it continues, and that decide the numbers of a report."""
FIRST_CPU = "cpu-mean"
_PARTS = {"numbers": Mapping, "claims": list, "settings": Mapping, "runs": list}
NEW = "is new: the reference has no such number"
_SHOWN = 20
_GZIP = b"\x1f\x8b"  # first bytes of a compressed file
_NEXT = ({"yes", "partly"}, {"partly", "no"})  # verdicts between which a threshold of a rule lies
_ROUNDING = 1e-9


class Deviation(NamedTuple):
    """A number or claim in both reports.

    Attributes:
        name: of the number; for a claim its wording.
        reference: value in the reference.
        new: value in the new report.
        allowed: tolerated difference; None for claims.
        share: difference as a share of the tolerance; above 1 the number has moved.
        why: the problem in words; "" within the tolerance.
        note: a remark that is no problem.
    """

    name: str
    reference: Any
    new: Any
    allowed: float | None
    share: float
    why: str
    note: str = ""


def load_report(path: str | os.PathLike) -> dict[str, Any]:
    """Reads a report.json, or a report.json.gz compressed by gzip.

    Args:
        path: the file; if it does not exist, the file with ".gz" added.

    Raises:
        UserError: the file is missing, damaged, not a report, or a report of another format version.
    """
    try:
        content = _content(Path(path))
        report = json.loads(content.decode("utf-8"))
    except (gzip.BadGzipFile, EOFError, zlib.error) as problem:
        raise UserError(f"{path} is a damaged gzip file: {problem}") from problem
    except OSError as problem:
        raise UserError(f"cannot read {path}: {problem.strerror or problem}") from problem
    except (ValueError, RecursionError) as problem:
        raise UserError(f"{path} is not valid JSON, or is cut off: {problem}") from problem
    if not isinstance(report, dict) or report.get("kind") != KIND:
        raise UserError(f"{path} is not a report of python -m accdistill_jax.reproduce")
    if report.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{path} has format version {report.get('format_version')}; this version of the package reads {FORMAT_VERSION}"
        )
    _check_parts(report, path)
    settings = report["settings"]
    if "grid_version" not in settings and settings.get("preset") == "cpu":
        report["settings"] = {**settings, "preset": FIRST_CPU}  # the preset's present name
    return report


def _content(path: Path) -> bytes:
    """Reads a file, or the file with ".gz" added, and decompresses it."""
    packed = Path(f"{path}.gz")
    content = (packed if packed.exists() and not path.exists() else path).read_bytes()
    return gzip.decompress(content) if content.startswith(_GZIP) else content


def _check_parts(report: Mapping[str, Any], path: str | os.PathLike) -> None:
    for part, kind in _PARTS.items():
        if not isinstance(report.get(part), kind):
            raise UserError(f"{path}: {part!r} is missing or has the wrong type")
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
    reference: Mapping[str, Any], new: Mapping[str, Any], *, only: Sequence[str] = ()
) -> list[Deviation]:
    """Lists numbers and claims of two reports that differ by more than the reference's tolerance.

    Args:
        reference: content of a report.json.
        new: content of the report that was made again.
        only: ids of the experiments that were made again, wildcards allowed; numbers of other experiments are not compared,
            nor claims that these experiments do not measure. Empty: all.

    Returns:
        The largest deviation first.

    Raises:
        UserError: the reports were made with other settings, so their numbers cannot be compared.
    """
    return [deviation for deviation in deviations(reference, new, only=only) if deviation.why]


def deviations(reference: Mapping[str, Any], new: Mapping[str, Any], *, only: Sequence[str] = ()) -> list[Deviation]:
    """Compares all numbers and claims, as `compare_reports` does; also lists those that agree."""
    check_alike(reference["settings"], new["settings"])
    before, now = ({n: v for n, v in r["numbers"].items() if _is_of(n, only)} for r in (reference, new))
    pairs = [_number(name, before.get(name), now.get(name)) for name in before | now]
    moved = {pair.name.partition("/")[0] for pair in pairs if pair.why}
    pairs += _claims(reference["claims"], new["claims"], moved, only=only)
    return sorted(pairs, key=lambda pair: -pair.share)


def check_alike(reference: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raises a UserError that names the settings in which two reports differ, if they cannot be compared.

    A config key that one report lacks counts as its default there; a key that this version does not know is named.
    """
    pairs = {key: (_plain(reference.get(key)), _plain(new.get(key))) for key in SETTINGS}
    if "config" in reference and "config" in new:  # decides more than the overrides: presets change with the version
        del pairs["overrides"]
        pairs |= changed_values(reference["config"], new["config"], free=DECIDING)
    listing = "; ".join(
        f"{key} is {_text(before)} in the reference, {_text(now)} here"
        for key, (before, now) in pairs.items()
        if before != now
    )
    if listing:
        raise UserError(f"the reports cannot be compared: {listing}")


def restoring_overrides(reference: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """Overrides that give a config the values of a report's settings, by their keys; {} for a report without a config."""
    changed = changed_values(reference["config"], now, free=DECIDING) if "config" in reference else {}
    return {
        key: f"--config.{key}={tuple(before) if isinstance(before, list) else before}"
        for key, (before, value) in changed.items()
        if value != ABSENT  # of another version: no override of this one sets it
    }


def _is_of(name: str, only: Sequence[str]) -> bool:
    """True if a number belongs to an experiment of `only`."""
    return not only or any(fnmatch.fnmatchcase(name.partition("/")[0], pattern) for pattern in only)


def _number(name: str, before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> Deviation:
    if before is None or now is None:
        old, new = (None if side is None else side["value"] for side in (before, now))
        if before is None:  # a later version may measure more; nothing says that it moved
            return Deviation(name, old, new, None, 0.0, "", NEW)
        return Deviation(name, old, new, None, math.inf, "is missing")
    old, new = before["value"], now["value"]
    if old is None or new is None:
        why = "" if old is new else "was not measurable" if old is None else "is not measurable any more"
        return Deviation(name, old, new, None, math.inf if why else 0.0, why)
    allowed, difference = before["absolute"] + before["relative"] * abs(old), abs(new - old)
    share = difference / allowed if allowed else math.inf if difference else 0.0
    return Deviation(name, old, new, allowed, share, "moved" if share > 1 + _ROUNDING else "")


def _claims(
    before: Sequence[Mapping], now: Sequence[Mapping], moved: Collection[str], *, only: Sequence[str]
) -> list[Deviation]:
    """Compares claims. A verdict may change to the next one if all numbers of its section agree: it is close to its threshold.

    Between "yes" and "no" lies "partly", so no threshold explains a reversal.
    """
    pairs = []
    for old, new in _paired_claims(before, now):
        verdict_before, verdict_now = (None if claim is None else claim["holds"] for claim in (old, new))
        section = (old or new or {}).get("section", "")
        if only and not (_is_of(section, only) if section else verdict_now not in (None, "not measured")):
            continue
        why, note = "", ""
        if verdict_before != verdict_now:
            if old is None or new is None:
                why = "is another claim"
            elif section and section not in moved and {verdict_before, verdict_now} in _NEXT:
                note = "holds differently; its numbers agree and lie near a threshold of its rule"
            else:
                why = "holds differently"
        share = math.inf if why else 1.0 if note else 0.0
        pairs.append(Deviation((new or old or {})["claim"], verdict_before, verdict_now, None, share, why, note))
    return pairs


def _paired_claims(
    before: Sequence[Mapping], now: Sequence[Mapping]
) -> Iterator[tuple[Mapping | None, Mapping | None]]:
    """Pairs claims by id, or by wording with reports from before claims had ids."""
    rest = list(now)
    for old in before:
        key = "id" if "id" in old else "claim"
        new = next((claim for claim in rest if claim.get(key) == old[key]), None)
        if new is not None:
            rest.remove(new)
        yield old, new
    yield from ((None, new) for new in rest)


def comparison_table(compared: Sequence[Deviation], *, shown: int = _SHOWN) -> str:
    """Formats the first of `deviations` as a Markdown table, with a line that counts them."""
    moved = sum(bool(deviation.why) for deviation in compared)
    rows = [("", "Reference", "New", "Allowed", "Share of it", "")]
    rows += [
        (
            deviation.name,
            _text(deviation.reference),
            _text(deviation.new),
            "" if deviation.allowed is None else f"± {deviation.allowed:.3g}",
            f"{100 * deviation.share:.0f} %"
            if math.isfinite(deviation.share) and deviation.allowed is not None
            else "",
            deviation.why.upper() if deviation.why == "moved" else deviation.why or deviation.note,
        )
        for deviation in compared[: max(shown, min(moved, 5 * shown))]
    ]
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    hidden = len(compared) - len(rows) + 1
    lines += [f"... and {hidden} more" + (", all closer" if moved < len(rows) else "")] if hidden else []
    added = sum(deviation.note == NEW for deviation in compared)
    known = len(compared) - added
    count = f"{moved} of {known} numbers and claims moved" if moved else f"all {known} numbers and claims agree"
    count += f"; {added} more are new" if added else ""
    return "\n".join([*lines, "", f"{count} (largest differences first)."])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(_plain(value))
