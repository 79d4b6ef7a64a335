"""Remarks on the recordings of a store for its summary: decisions, oddities, and the main reasons of rejections."""

import re
from collections.abc import Iterable, Mapping

from accdistill_jax.data.preprocessing import polarity

MOST = 10
_MONTH, _DAY = "(?:0[1-9]|1[0-2])", "(?:0[1-9]|[12][0-9]|3[01])"
_DATE = re.compile(  # 2024-05-01, 20240501, 20240501223011, 01.05.2024, 05-01-2024, unix time in s or ms
    rf"(?<!\d)(?:(?:19|20)\d\d([-_. ]?){_MONTH}\1{_DAY}(?:\d{{4}}|\d{{6}})?"
    rf"|(?:{_DAY}([-_. ]){_MONTH}|{_MONTH}([-_. ]){_DAY})[-_. ](?:19|20)\d\d|1[3-9]\d{{8}}(?:\d{{3}})?)(?!\d)"
)
LEAST_KEPT = 0.5
LEAST_SHARE = 0.2
_FLAGS = {  # reason -> (meaning, setting with the threshold)
    "too_short": ("recordings shorter than a segment", "segment_s"),
    "gap": ("missing or held samples", "max_gap_s"),
    "flat": ("a sensor that is off or held; are these the right channels?", "ppg_channels"),
    "clipped": ("samples at the end of the sensor's range", "max_clipped_fraction"),
    "motion": ("the wrist moves", "max_motion_g"),
    "quality": ("no clean pulse", "min_ppg_quality"),
}


def why_rejected(rejected: Mapping[str, int], preprocess: Mapping[str, object]) -> str:
    """Main reasons of rejections (at least a fifth each) with the flags to check; "" without any rejection.

    Args:
        rejected: reason -> number of segments.
        preprocess: result of `PreprocessSettings.to_json`.
    """
    total, parts = sum(rejected.values()), []
    for reason, count in sorted(rejected.items(), key=lambda item: -item[1]):
        if reason in _FLAGS and count and count >= LEAST_SHARE * total:
            meaning, setting = _FLAGS[reason]
            value = preprocess.get(setting)
            shown = "" if value is None or isinstance(value, list) else f" is {value}"
            parts.append(f"{count} for {reason} ({meaning}: --{setting.replace('_', '-')}{shown})")
    return "; ".join(parts)


def remarks(manifest: Mapping) -> list[str]:
    """Lines for the summary, the most important one last.

    Args:
        manifest: manifest of a store.
    """
    notes: dict[str, Mapping] = {}
    for number, unit in enumerate(manifest["prepared"]):
        if isinstance(unit.get("notes"), Mapping):
            name = unit["unit"]  # merged stores may have recordings of equal ids
            notes[f"{name} (entry {number})" if name in notes else name] = unit["notes"]
    votes = {name: vote for name, note in notes.items() if (vote := polarity.vote_of(note)) is not None}
    lines = polarity.polarity_summary(votes, most=MOST)
    for signal in ("ppg", "accel"):
        held = {name: note["held_s"] for name, note in notes.items() if isinstance(note.get("held_s"), Mapping)}
        seconds = {name: lost[signal] for name, lost in held.items() if isinstance(lost.get(signal), int | float)}
        if seconds:
            lines.append(
                f"held values taken for gaps: {sum(seconds.values()):.0f} s of {signal} in {polarity.recordings_text(len(seconds))}, most "
                f"({max(seconds.values()):.0f} s) in {max(seconds, key=lambda name: seconds[name])}"
            )
    for key, noun in (
        ("clocks", "clocks"),
        ("heart_rate", "reference heart rate"),
        ("accel_axes", "acceleration"),
        ("references", "labels"),
        ("short_labels", "labels"),
        ("coverage", "signals"),
    ):
        odd = {name: note[key] for name, note in notes.items() if isinstance(note.get(key), str)}
        lines += [f"recording {name}: {noun}: {text}" for name, text in list(odd.items())[:MOST]]
        if len(odd) > MOST:
            lines.append(f"{len(odd) - MOST} more recordings: {noun}: see the notes in the store's manifest")
    participants = manifest["counts"].get("participants") or {}
    lines += [*_alike(participants), *_dated(participants)]
    total = manifest["counts"]["total"]
    if total["kept"] < LEAST_KEPT * total["examined"]:
        lines.append(
            f"warning: only {total['kept']} of {total['examined']} segments were kept; rejected: "
            f"{why_rejected(total['rejected'], manifest['preprocess'])}"
        )
    return lines


def holds_date(name: str) -> bool:
    """True if a name holds a date or a unix time, as devices name files."""
    return _DATE.search(name) is not None


def _dated(participants: Iterable[str]) -> list[str]:
    """A warning if several ids hold a date: files that a phone names by the time are recordings, and not people."""
    dated = [name for name in participants if holds_date(name)]
    if len(dated) < 2:
        return []
    return [
        f"warning: {len(dated)} participants have a date in their id, such as {dated[0]!r} and {dated[1]!r}; if recordings of one person have "
        "different ids, that person is in several splits and test results are too good: name the people (--participant-from, where the "
        "reader has it; folders or files that begin with the person; or a recording.yaml beside the files)"
    ]


def _alike(participants: Iterable[str]) -> list[str]:
    """A warning for each group of ids that differ only in capital letters or outer white space."""
    groups: dict[str, list[str]] = {}
    for name in participants:
        groups.setdefault(name.strip().casefold(), []).append(name)
    alike = [" and ".join(map(repr, names)) for names in groups.values() if len(names) > 1]
    lines = [
        f"warning: the participants {names} differ only in capital letters or outer blanks; if they are one person, write one id, "
        "because that person may be in two splits"
        for names in alike[:MOST]
    ]
    if len(alike) > MOST:
        lines.append(
            f"warning: {len(alike) - MOST} more groups of participants differ only in capital letters or outer blanks"
        )
    return lines
