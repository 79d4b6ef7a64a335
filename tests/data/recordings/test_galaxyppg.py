"""GalaxyPPG: units, times, the strap's time zone, participants, and bad files."""

import numpy as np
import pytest

from accdistill_jax.data.recordings import find
from accdistill_jax.errors import UserError

START_MS = 1_700_000_000_000
KOREA_MS = 9 * 3_600_000


def rows(header, lines):
    return header + "\n" + "".join(",".join(map(str, line)) + "\n" for line in lines)


def files(**changes):
    samples = 25 * 10
    stamps = [START_MS + 40 * k for k in range(samples)]
    return {
        "Meta.csv": "UID,AGE,GENDER,TSST,SSST,GalaxyWatch\nP02,26,F,1,2,L\n",
        "P02/GalaxyWatch/PPG.csv": rows(
            "dataReceived,timestamp,ppg,status",
            [(s + 9, s, 2_000_000 + k, -999 if k == 3 else 0) for k, s in enumerate(stamps)],
        ),
        "P02/GalaxyWatch/ACC.csv": rows("dataReceived,timestamp,x,y,z", [(s, s - 20, 0.1, 0.2, 9.8) for s in stamps]),
        "P02/PolarH10/HR.csv": rows(
            "phoneTimestamp,hr,hrv", [(START_MS + 1000 * k, 70 + k % 3, 0.5) for k in range(9)]
        ),
    } | changes


def write(folder, content):
    for name, text in content.items():
        if text is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)


def load(folder, **changes):
    write(folder, files(**changes))
    (source,) = find("galaxyppg", folder)
    return source.load()


def test_units_times_and_participant(tmp_path):
    recording = load(tmp_path)
    ppg, accel = recording.streams["ppg"], recording.streams["accel"]
    person = recording.participant
    assert (person.participant_id, person.age_years, person.sex) == ("P02", 26, "female")
    assert (recording.recording_id, recording.start_unix_s) == ("P02", START_MS / 1000 - 1)
    np.testing.assert_allclose(ppg.time_s[:2], [1.0, 1.04], atol=1e-6)
    np.testing.assert_allclose(accel.time_s[:2], [0.98, 1.02], atol=1e-6)
    np.testing.assert_allclose(accel.values[0], np.array([0.1, 0.2, 9.8]) / 9.80665, rtol=1e-6)
    assert np.isnan(ppg.values[:, 0]).nonzero()[0].tolist() == [3]
    assert recording.heart_rate.hr_bpm[:3].tolist() == [70, 71, 72]
    np.testing.assert_allclose(recording.heart_rate.start_s[:2], [0.0, 1.0], atol=1e-6)


def test_a_strap_in_korean_time(tmp_path):
    strap = rows("phoneTimestamp,hr,hrv", [(START_MS + KOREA_MS + 1000 * k, 70, 0.5) for k in range(9)])
    recording = load(tmp_path, **{"P02/PolarH10/HR.csv": strap})
    np.testing.assert_allclose(recording.heart_rate.start_s[:2], [0.0, 1.0], atol=1e-6)


def test_sessions_of_seconds(tmp_path):
    events = [
        (1500, "baseline", "ENTER"),
        (4200, "baseline", "EXIT"),
        (5000, "tsst", "ENTER"),
        (60_000, "tsst", "EXIT"),
    ]
    text = rows("timestamp,session,status", [(START_MS - 1000 + ms, *event) for ms, *event in events])
    sessions = load(tmp_path, **{"P02/Event.csv": text}).labels.values["session"]
    assert sessions.tolist() == ["", "", "baseline", "baseline", "", *["tsst"] * 6]


def test_strap_and_meta_are_optional(tmp_path):
    recording = load(tmp_path, **{"P02/PolarH10/HR.csv": None, "Meta.csv": None})
    assert recording.heart_rate is None and recording.participant.age_years is None


STRAP_ELSEWHERE = rows("phoneTimestamp,hr,hrv", [(START_MS + 10**9 + 1000 * k, 70, 0.5) for k in range(9)])


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("P02/GalaxyWatch/PPG.csv", None, "no such file"),
        ("P02/GalaxyWatch/ACC.csv", "", "the file is empty"),
        ("P02/GalaxyWatch/PPG.csv", lambda text: text.replace("ppg", "value"), "'ppg'"),
        ("P02/GalaxyWatch/PPG.csv", lambda text: text.replace(f"{START_MS + 80},", "x,"), "line 4: not a number"),
        ("P02/GalaxyWatch/PPG.csv", lambda text: text + f"1,{START_MS},5,0\n", "line 252: the time goes back"),
        (
            "P02/GalaxyWatch/PPG.csv",
            lambda text: text + f"1,{START_MS}999,5,0\n",
            "line 252: .* is outside the years 1970",
        ),
        ("P02/GalaxyWatch/ACC.csv", lambda text: text[:-9], "line 251: Expected 5 columns, got 3"),
        ("P02/GalaxyWatch/ACC.csv", lambda text: text.splitlines()[0] + "\n", "has no rows"),
        ("P02/PolarH10/HR.csv", STRAP_ELSEWHERE, "neither as UTC nor as UTC[+]9"),
        ("P02/Event.csv", f"timestamp,session,status\n{START_MS},tsst,BEGIN\n", "line 2: must hold timestamp, session"),
        ("Meta.csv", "UID,AGE,GENDER\nP02,old,F\n", "the age of P02 is no number"),
    ],
)
def test_bad_file_is_named(tmp_path, name, change, message):
    text = change(files().get(name)) if callable(change) else change
    with pytest.raises(UserError, match=rf"{name}: .*{message}"):
        load(tmp_path, **{name: text})
