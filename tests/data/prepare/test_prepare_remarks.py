"""Preparation of several recordings: their pooled polarity, and the summary."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from accdistill_jax.data.prepare import preparation
from accdistill_jax.data.prepare.__main__ import main
from accdistill_jax.data.prepare.preparation import PreparationSettings, find_recordings, prepare_recordings
from accdistill_jax.data.prepare.show import print_summary
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.store.remarks import remarks, why_rejected
from accdistill_jax.data.store.store import Store

RATE = 32
SECONDS = 130
ALL = PreprocessSettings(max_motion_g=float("inf"), min_ppg_quality=0)


def put(root, name, *, shake=0.003, seed=0, polarity="unknown", spoil=None, **keys):
    """A recording with an inverted pulse."""
    rng = np.random.default_rng([seed, *name.encode()])
    time = np.arange(RATE * SECONDS) / RATE
    phase = (time * 1.2) % 1
    ppg = -np.exp(-0.5 * ((phase - 0.15) / 0.06) ** 2) - 0.5 * np.exp(-0.5 * ((phase - 0.38) / 0.14) ** 2)
    ppg = 1000 * ppg + rng.normal(0, 5, len(time))
    accel = rng.normal((0, 0, 1), shake, (len(time), 3))
    if spoil:
        spoil(ppg, accel)
    folder = root / name
    folder.mkdir(parents=True)
    np.savetxt(
        folder / "data.csv", np.column_stack([ppg, accel]), fmt="%.5f", delimiter=",", header="green,x,y,z", comments=""
    )
    streams = {
        "ppg": {"file": "data.csv", "columns": ["green"], "rate_hz": RATE, "polarity": polarity},
        "accel": {"file": "data.csv", "columns": ["x", "y", "z"], "rate_hz": RATE},
    }
    (folder / "recording.json").write_text(
        json.dumps({"participant": name, "device": "watch", "streams": streams} | keys)
    )


def group(root, polarity="unknown"):
    """Three calm recordings, and one that moves all the time and therefore has no vote on its polarity."""
    for name in ("a", "b", "c"):
        put(root, name, polarity=polarity)
    put(root, "moved", shake=0.2, polarity=polarity)
    return find_recordings("generic", [root])


def made(found, out, *, workers=1):
    return prepare_recordings(found, out, settings=ALL, preparation=PreparationSettings(workers=workers, quiet=True))


def ppg_of(store):
    return store.read(np.arange(store.num_segments))


def contents(store):
    return {name: entry["sha256"] for name, entry in store.manifest["files"].items()} | {
        "fingerprint": store.fingerprint
    }


@pytest.mark.slow
def test_a_recording_that_cannot_tell_is_turned_with_its_device(tmp_path):
    store = made(group(tmp_path / "in"), tmp_path / "store")
    notes = {own["unit"]: own["notes"] for own in store.manifest["prepared"]}
    assert notes["a"]["ppg_polarity"] == "systole_down, by the data (0 of 16 calm, clean frames are up)"
    assert (
        notes["moved"]["ppg_polarity"]
        == "systole_down, as its device's other recordings (no calm, clean frame of its own)"
    )
    assert {name: own["ppg_votes"]["applied"] for name, own in notes.items()} == dict.fromkeys(notes, "systole_down")
    assert notes["moved"]["ppg_votes"]["frames"] == 0
    declared = made(group(tmp_path / "declared", "systole_down"), tmp_path / "right")
    for key in ("ppg", "ppg_scale", "ppg_offset"):  # identical to the store with declared polarity
        np.testing.assert_array_equal(ppg_of(store)[key], ppg_of(declared)[key])


def test_references_that_label_nothing_are_told(tmp_path):
    put(tmp_path / "in", "a", heart_rate={"file": "hr.csv", "time": "t", "hr": "bpm", "duration_s": 0.001})
    np.savetxt(
        tmp_path / "in" / "a" / "hr.csv",
        np.column_stack([np.arange(120), 70 + np.arange(120) % 7]),
        fmt="%d",
        delimiter=",",
        header="t,bpm",
        comments="",
    )
    store = made(find_recordings("generic", [tmp_path / "in"]), tmp_path / "store")
    assert (
        "recording a: labels: none of its kept segments (2) has a heart rate: the windows of heart rate cover too little of them"
        in remarks(store.manifest)
    )


def test_windows_of_labels_that_are_too_short_are_told(tmp_path):
    labels = {"file": "labels.csv", "time": "t", "columns": ["stress"], "duration_s": 10}
    put(tmp_path / "in", "a", labels=labels)
    (tmp_path / "in" / "a" / "labels.csv").write_text(
        "t,stress\n" + "".join(f"{t},{t % 7}\n" for t in range(0, 120, 30))
    )
    store = made(find_recordings("generic", [tmp_path / "in"]), tmp_path / "store")
    (line,) = [line for line in remarks(store.manifest) if "labels" in line]
    assert line.startswith("recording a: labels: 4 of 4 windows of 'stress' (the first at 0 s) label no segment")


@pytest.mark.slow
def test_what_an_earlier_start_prepared_is_told(tmp_path, capsys):
    for name in ("a", "b"):
        put(tmp_path / "in", name)
    spoilt = tmp_path / "in" / "b" / "data.csv"
    whole = spoilt.read_text()
    command = [
        "generic",
        str(tmp_path / "in"),
        "--out",
        str(tmp_path / "store"),
        "--workers",
        "1",
        "--quiet",
        "--split-fractions",
        "1",
        "0",
        "0",
    ]
    spoilt.write_text("green\n")
    assert main(command) == 2 and "earlier start" not in capsys.readouterr().out
    spoilt.write_text(whole)
    advice = "if recordings have changed since, prepare with --overwrite"
    assert main(command) == 0
    assert f"1 of 2 recordings were prepared by an earlier start and are kept; {advice}" in capsys.readouterr().out
    assert main(command) == 0
    assert f"store was already complete and is left as it is; {advice}" in capsys.readouterr().out.replace("\n", "")
    assert main([*command, "--overwrite"]) == 0 and "earlier start" not in capsys.readouterr().out


@pytest.mark.slow
def test_workers_and_interruptions_change_nothing(tmp_path, monkeypatch):
    sources = group(tmp_path / "in")
    expected = contents(made(sources, tmp_path / "one"))
    assert contents(made(sources, tmp_path / "two", workers=2)) == expected

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(preparation, "apply_pooled_polarity", interrupted)
        with pytest.raises(KeyboardInterrupt):
            made(sources, tmp_path / "cut")
    assert contents(made(sources, tmp_path / "cut")) == expected
    with monkeypatch.context() as patch:  # after the polarity is applied, before the store is written
        patch.setattr(preparation.StoreWriter, "commit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            made(sources, tmp_path / "late")
    assert contents(made(sources, tmp_path / "late")) == expected


@pytest.mark.slow
def test_a_device_keeps_its_polarity_in_the_next_version(tmp_path, capsys):
    def turn(ppg, accel):
        ppg *= -1

    put(tmp_path / "in", "a")
    put(tmp_path / "new", "turned", spoil=turn)
    put(tmp_path / "new", "moved", shake=0.2)
    made(find_recordings("generic", [tmp_path / "in"]), tmp_path / "store")
    store, out = str(tmp_path / "store"), str(tmp_path / "next")
    assert main(["append", store, str(tmp_path / "new"), "--out", out, "--workers", "1", "--quiet"]) == 0
    applied = {own["unit"]: own["notes"]["ppg_votes"]["applied"] for own in Store.open(out).manifest["prepared"]}
    assert applied == dict.fromkeys(("a", "turned", "moved"), "systole_down")
    said = capsys.readouterr().out.replace("\n", " ")
    assert "warning: PPG polarity (green), watch: systole_down in 2 recordings, as in the store" in said


def shown(store):
    text = io.StringIO()
    print_summary(store, Console(file=text, width=140))
    return text.getvalue()


@pytest.mark.slow
def test_the_summary_says_polarity_and_dropouts(tmp_path):
    def hold(ppg, accel):
        ppg[100:260] = ppg[100]

    sources = group(tmp_path / "in")
    put(tmp_path / "in", "held", spoil=hold)
    text = shown(made(find_recordings("generic", [tmp_path / "in"]), tmp_path / "store"))
    assert len(sources) == 4
    assert (
        "PPG polarity, watch: systole_down in 5 recordings, found in the data; 4 of the 4 with a clear vote agree"
        in text
    )
    assert "held values taken for gaps: 5 s of ppg in 1 recording, most (5 s) in held" in text


@pytest.mark.slow
def test_the_summary_says_why_most_minutes_are_rejected(tmp_path, capsys):
    group(tmp_path / "in")

    def shaken(ppg, accel):
        accel += np.random.default_rng(0).normal(0, 0.2, accel.shape)

    for name in ("d", "e", "f", "g"):
        put(tmp_path / "in", name, spoil=shaken)
    assert main(["generic", str(tmp_path / "in"), "--out", str(tmp_path / "store"), "--workers", "1", "--quiet"]) == 0
    assert (
        "warning: only 6 of 16 segments were kept; rejected: 10 for motion (the wrist moves: --max-motion-g is 0.1)"
        in capsys.readouterr().out
    )
    assert "only" not in shown(made(find_recordings("generic", [tmp_path / "in"]), tmp_path / "kept"))


def test_a_store_of_nothing_says_why_too(tmp_path, capsys):
    put(tmp_path / "in", "moved", shake=0.2)
    assert main(["generic", str(tmp_path / "in"), "--out", str(tmp_path / "store"), "--workers", "1", "--quiet"]) == 2
    assert "no segment was kept of 2 examined (rejected: motion 2)" in (error := capsys.readouterr().err)
    assert "2 for motion (the wrist moves: --max-motion-g is 0.1)" in error


@pytest.mark.parametrize(
    ("rejected", "parts", "absent"),
    [
        (
            {"quality": 500, "gap": 72, "motion": 0},
            ["500 for quality (no clean pulse: --min-ppg-quality is 0.4)"],
            "gap",
        ),
        (
            {"gap": 5, "flat": 5, "clipped": 5},
            ["5 for gap", "--max-gap-s is 1.0", "5 for flat", "5 for clipped"],
            "motion",
        ),
        ({"too_short": 3}, ["3 for too_short (recordings shorter than a segment: --segment-s is 60.0)"], "gap"),
    ],
)
def test_reasons_name_their_flags(rejected, parts, absent):
    text = why_rejected(rejected, PreprocessSettings().to_json())
    assert all(part in text for part in parts) and absent not in text


def test_a_heart_rate_that_was_cleaned_is_in_the_summary(tmp_path):
    put(tmp_path / "in", "a", heart_rate={"file": "hr.csv", "time": "t", "hr": "bpm", "duration_s": 8})
    rates = "".join(f"{2 * k},{255 if k % 10 == 0 else 72 + k / 100}\n" for k in range(60))
    (tmp_path / "in/a/hr.csv").write_text("t,bpm\n" + rates)
    store = made(find_recordings("generic", [tmp_path / "in"]), tmp_path / "store")
    np.testing.assert_allclose(store.segments["hr_bpm"], 72.3, atol=0.3)
    assert "recording a: reference heart rate: 6 of 60 windows are unknown: 6 outside 30 to 240 bpm" in shown(store)
    assert Store.open(store.path).fingerprint == store.fingerprint


@pytest.mark.parametrize(
    "notes",
    [
        None,
        [],
        "text",
        {"ppg_votes": 1},
        {"ppg_votes": {"device": "w"}},
        {"held_s": 5},
        {"held_s": {"ppg": "long"}},
        {"heart_rate": 3, "accel_axes": None},
        {"ppg_votes": {"device": "w", "declared": "unknown", "applied": "up", "frames": "1", "up": 0}},
    ],
)
def test_notes_of_other_origin_say_nothing(notes):
    manifest = {
        "prepared": [{"unit": "a", "notes": notes}],
        "preprocess": {},
        "counts": {"total": {"examined": 1, "kept": 1}},
    }
    assert remarks(manifest) == []


def test_ids_that_may_be_one_person_are_told(tmp_path):
    for name, who in (("a", "P01"), ("b", "P01 "), ("c", "p01 "), ("d", "p02")):
        put(tmp_path / "in", name, participant=who)
    store = made(find_recordings("generic", [tmp_path / "in"]), tmp_path / "store")
    assert store.participants["participant"].to_pylist() == ["P01", "p01", "p02"]
    (line,) = [line for line in remarks(store.manifest) if line.startswith("warning: the participants")]
    assert "'P01' and 'p01' differ only in capital letters or outer blanks" in line and line in shown(store)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("2024-05-01_22-30-11", "2024-05-02_22-31-00"), True),
        (("Polar_Sense_A1B2_20220425_113934", "Polar_Sense_A1B2_20220426_113934", "p3"), True),
        (("2024-05-01", "p2"), False),
        (("20241399", "1234567890", "s19991"), False),
    ],
)
def test_ids_that_are_dates_are_told_to_be_recordings(names, told):
    """A phone names a folder by the time: 12 nights of one wearer were 12 people, in all splits."""
    counts = {"total": {"examined": 1, "kept": 1}, "participants": dict.fromkeys(names, {})}
    lines = remarks({"prepared": [], "preprocess": {}, "counts": counts})
    assert len(lines) == told and all(f"such as {names[0]!r} and {names[1]!r}; if recordings" in line for line in lines)


def test_many_alike_ids_are_counted():
    names = {f"{letter}{number}{blank}" for letter in "pP" for number in range(12) for blank in ("", " ")}
    manifest = {
        "prepared": [],
        "preprocess": {},
        "counts": {"total": {"examined": 1, "kept": 1}, "participants": dict.fromkeys(sorted(names), {})},
    }
    lines = remarks(manifest)
    assert len(lines) == 11 and "'P0' and 'P0 ' and 'p0' and 'p0 '" in lines[0] and "2 more groups" in lines[-1]
