"""EmotiBit: joined signals, recordings in one folder, and bad files."""

import numpy as np
import pytest

from accdistill_jax.data.recordings import find
from accdistill_jax.errors import UserError

START = 1_600_000_000
HEADER = "LocalTimestamp,EmotiBitTimestamp,PacketNumber,DataLength,TypeTag,ProtocolVersion,DataReliability,{}\n"


def text(tag, values, *, rate=25.0, start=START + 0.5, skip=()):
    rows = [
        f"{start + k / rate:.6f},{1000 * k / rate:.3f},{k // 5},5,{tag},1,100,{value}"
        for k, value in enumerate(values)
        if k not in skip
    ]
    return HEADER.format(tag) + "\n".join(rows) + "\n"


def files(name="2019-08-22_14-10-33", **changes):
    time_s = np.arange(100)
    content = {
        "AX": text("AX", 0.001 * time_s),
        "AY": text("AY", 0.002 * time_s),
        "AZ": text("AZ", 1 + 0 * time_s),
        "PG": text("PG", 1000 + time_s),
        "PI": text("PI", 2000 + time_s),
    } | changes
    return {f"{name}_{tag}.csv": value for tag, value in content.items() if value is not None}


def load(folder, **changes):
    for name, content in files(**changes).items():
        (folder / name).write_text(content)
    (source,) = find("emotibit", folder)
    return source.load()


def test_signals_are_joined(tmp_path):
    late = text("AY", 0.002 * np.arange(100), start=START + 0.505, skip=(7,))
    recording = load(tmp_path, AY=late)
    ppg, accel = recording.streams["ppg"], recording.streams["accel"]
    assert (recording.participant.participant_id, recording.start_unix_s) == ("2019-08-22_14-10-33", START)
    np.testing.assert_allclose(accel.time_s, 0.5 + np.arange(100) / 25, atol=1e-5)
    np.testing.assert_allclose(np.delete(accel.values, 7, 0)[:, 1], np.delete(0.002 * np.arange(100), 7), rtol=1e-6)
    assert np.isnan(accel.values).nonzero()[0].tolist() == [7]
    assert ppg.channels == ("green", "infrared") and ppg.values[3].tolist() == [1003, 2003]


def test_without_ppg_and_several_recordings_in_a_folder(tmp_path):
    for name in ("anna_1.5", "ben_2"):
        for file, content in files(name, PG=None, PI=None).items():
            (tmp_path / file).write_text(content)
    (tmp_path / "anna_1.5.csv").write_text("raw")
    anna, ben = find("emotibit", tmp_path, participant_from="prefix")
    assert (anna.participant_id, ben.participant_id) == ("anna", "ben")
    assert list(anna.load().streams) == ["accel"] and ben.load().recording_id == "ben_2"


@pytest.mark.parametrize(
    ("tag", "content", "message"),
    [
        ("AY", None, "no such file; a recording needs _AX, _AY and _AZ"),
        ("AX", "", "the file is empty"),
        ("AZ", text("AY", np.zeros(100)), "'AZ'"),
        ("AZ", text("AZ", np.zeros(100)).replace("LocalTimestamp", "EpochTimestamp"), "LocalTimestamp"),
        ("AZ", text("AZ", np.zeros(100))[:-12], "line 101: Expected 8 columns, got 5"),
        ("AX", text("AX", ["0.1"] * 50 + ["0.x"]), "line 52: not a number"),
        ("AX", text("AX", np.zeros(9)) + text("AX", np.zeros(9)).split("\n", 1)[1], "line 11: the time goes back"),
        (
            "AY",
            text("AY", np.zeros(100), start=START + 60),
            "100% of the samples of .*_AX.csv have none at the same time",
        ),
        ("PI", text("PI", np.zeros(50)), "50% of the samples of .*_PG.csv have none at the same time"),
    ],
)
def test_bad_file_is_named(tmp_path, tag, content, message):
    with pytest.raises(UserError, match=rf"2019-08-22_14-10-33_{tag}.csv: .*{message}|_{tag}.csv: {message}"):
        load(tmp_path, **{tag: content})
