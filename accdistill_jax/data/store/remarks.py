"""Remarks of a store's summary on its recordings: decisions, oddities, and why most minutes were rejected."""

from collections.abc import Mapping

from accdistill_jax.data.preprocessing import polarity

MOST = 10
LEAST_KEPT = 0.5
LEAST_SHARE = 0.2
_FLAGS = {  # reason: what it means, and the setting that decides
    "too_short": ("recordings shorter than a segment", "segment_s"),
    "gap": ("missing or held samples", "max_gap_s"),
    "flat": ("a sensor that is off or held; are these the right channels?", "ppg_channels"),
    "clipped": ("samples at the end of the sensor's range", "max_clipped_fraction"),
    "motion": ("the wrist moves", "max_motion_g"),
    "quality": ("no clean pulse", "min_ppg_quality"),
}


def why_rejected(rejected: Mapping[str, int], preprocess: Mapping[str, object]) -> str:
    """The reasons that reject most, at least a fifth each, and the flags to look at; empty without any rejection.

    Args:
        rejected: segments by reason.
        preprocess: `PreprocessSettings.to_json`.
    """
    total, parts = sum(rejected.values()), []
    for reason, count in sorted(rejected.items(), key=lambda item: -item[1]):
        if reason in _FLAGS and count and count >= LEAST_SHARE * total:
            meaning, setting = _FLAGS[reason]
            now = preprocess.get(setting)
            shown = "" if now is None or isinstance(now, list) else f" is {now}"
            parts.append(f"{count} for {reason} ({meaning}: --{setting.replace('_', '-')}{shown})")
    return "; ".join(parts)


def remarks(manifest: Mapping) -> list[str]:
    """Lines for the summary, most important last.

    Args:
        manifest: of a store.
    """
    notes = {own["unit"]: own["notes"] for own in manifest["prepared"] if isinstance(own.get("notes"), Mapping)}
    votes = {name: vote for name, own in notes.items() if (vote := polarity.vote_of(own)) is not None}
    lines = polarity.summary(votes, most=MOST)
    for signal in ("ppg", "accel"):
        held = {name: own["held_s"] for name, own in notes.items() if isinstance(own.get("held_s"), Mapping)}
        seconds = {name: lost[signal] for name, lost in held.items() if isinstance(lost.get(signal), int | float)}
        if seconds:
            lines.append(
                f"held values taken for gaps: {sum(seconds.values()):.0f} s of {signal} in {polarity.counted(len(seconds))}, most "
                f"({max(seconds.values()):.0f} s) in {max(seconds, key=seconds.get)}"
            )
    for key, what in (
        ("heart_rate", "reference heart rate"),
        ("accel_axes", "acceleration"),
        ("references", "labels"),
        ("coverage", "signals"),
    ):
        odd = {name: own[key] for name, own in notes.items() if isinstance(own.get(key), str)}
        lines += [f"recording {name}: {what}: {text}" for name, text in list(odd.items())[:MOST]]
        if len(odd) > MOST:
            lines.append(f"{len(odd) - MOST} more recordings: {what}: see the notes in the store's manifest")
    total = manifest["counts"]["total"]
    if total["kept"] < LEAST_KEPT * total["examined"]:
        lines.append(
            f"warning: only {total['kept']} of {total['examined']} segments were kept; rejected: "
            f"{why_rejected(total['rejected'], manifest['preprocess'])}"
        )
    return lines
