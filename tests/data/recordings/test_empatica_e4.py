"""Empatica E4 sessions: layouts, participants, copies, and bad files."""

import io
import pickle
import zipfile

import numpy as np
import pytest

from accdistill_jax.data.preprocessing.preprocess import preprocess
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.recordings import find
from accdistill_jax.errors import UserError

START = 1_600_000_000


def session(seconds=4, start=START, bvp_start=None):
    """The files of a small session, as text."""
    rng = np.random.default_rng(start)
    bvp = rng.normal(size=64 * seconds).round(2)
    acc = rng.integers(-128, 128, (32 * seconds, 3))
    acc[0] = (-64, 0, 127)
    return {
        "BVP.csv": f"{bvp_start or start}.00\n64.000000\n" + "".join(f"{x}\n" for x in bvp),
        "ACC.csv": ", ".join([f"{start}.000000"] * 3)
        + "\n32.000000, 32.000000, 32.000000\n"
        + "".join(",".join(map(str, row)) + "\n" for row in acc),
        "IBI.csv": f"{start}.000000, IBI\n1.500000,0.800000\n2.250000,0.750000\n",
        "tags.csv": "",
    }


def write_folder(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def zipped(files, folder=""):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(folder + name, content)
    return buffer.getvalue()


def load_one(root, **options):
    (source,) = find("empatica_e4", root, **options)
    return source.load()


def test_units_times_and_labels(tmp_path):
    write_folder(tmp_path / "S01", session(bvp_start=START + 2))
    recording = load_one(tmp_path)
    assert (recording.participant.participant_id, recording.device, recording.start_unix_s) == (
        "S01",
        "Empatica E4",
        START,
    )
    ppg, accel = recording.streams["ppg"], recording.streams["accel"]
    assert (ppg.start_s, ppg.rate_hz, ppg.polarity, ppg.values.shape) == (2.0, 64.0, "systole_up", (256, 1))
    assert (accel.start_s, accel.rate_hz, accel.unit, accel.range) == (0.0, 32.0, "g", (-2.0, 127 / 64))
    np.testing.assert_array_equal(accel.values[0], [-1.0, 0.0, 127 / 64])
    np.testing.assert_array_equal(recording.beats.time_s, [1.5, 2.25])
    np.testing.assert_array_equal(recording.beats.interval_s, [0.8, 0.75])


def test_every_layout_reads_the_same(tmp_path):
    files = session()
    write_folder(tmp_path / "plain" / "S01", files)
    for kind in ("zip", "nested", "folder_in_zip"):
        (tmp_path / kind).mkdir()
    (tmp_path / "zip" / "S01.zip").write_bytes(zipped(files))
    (tmp_path / "nested" / "all.zip").write_bytes(
        zipped({"S01.zip": zipped(files), "S02.zip": zipped(session(start=START + 9))})
    )
    (tmp_path / "folder_in_zip" / "all.zip").write_bytes(zipped(files, "study/S01/"))
    expected = load_one(tmp_path / "plain")
    roots = [
        tmp_path / "plain" / "S01",
        tmp_path / "zip",
        tmp_path / "zip" / "S01.zip",
        tmp_path / "nested",
        tmp_path / "folder_in_zip",
    ]
    for root in roots:
        source = find("empatica_e4", root)[0]
        recording = pickle.loads(pickle.dumps(source)).load()
        assert recording.participant.participant_id == source.participant_id == "S01", root
        assert recording.recording_id == source.recording_id
        for name in ("ppg", "accel"):
            np.testing.assert_array_equal(recording.streams[name].values, expected.streams[name].values)
        np.testing.assert_array_equal(recording.beats.time_s, expected.beats.time_s)
    assert [s.participant_id for s in find("empatica_e4", tmp_path / "nested")] == ["S01", "S02"]


@pytest.mark.parametrize(
    ("place", "rule", "participant"),
    [
        ("15/15_1594149654", "auto", "15"),
        ("anna/1539693155_A00D2A", "auto", "anna"),
        ("study/S01", "auto", "S01"),
        ("anna/day_1", "auto", "day_1"),
        ("anna/day_1", "parent", "anna"),
        ("anna/day_1", "name", "day_1"),
        ("anna/day_1", "prefix", "day"),
        ("anna/day", "prefix", "day"),
    ],
)
def test_who_wore_it(tmp_path, place, rule, participant):
    write_folder(tmp_path / "folders" / place, session())
    zip_path = tmp_path / "zips" / f"{place}.zip"
    zip_path.parent.mkdir(parents=True)
    zip_path.write_bytes(zipped(session()))
    for kind in ("folders", "zips"):
        assert find("empatica_e4", tmp_path / kind, participant_from=rule)[0].participant_id == participant


def test_unknown_rule_is_named(tmp_path):
    with pytest.raises(UserError, match="participant_from must be one of auto, name, prefix, parent, got 'folder'"):
        find("empatica_e4", tmp_path, participant_from="folder")


def test_copies_of_a_session_are_read_once(tmp_path):
    files = session()
    write_folder(tmp_path / "unpacked" / "S01", files)
    write_folder(tmp_path / "unpacked" / "S02", session(start=START + 9))
    (tmp_path / "S01.zip").write_bytes(zipped(files))
    sources = find("empatica_e4", tmp_path)
    assert [(s.participant_id, len(s.copies)) for s in sources] == [("S01", 1), ("S02", 0)]
    assert sources[0].copies[0].endswith("unpacked/S01")


def test_one_session_under_two_participants_is_refused(tmp_path):
    write_folder(tmp_path / "S01", session())
    write_folder(tmp_path / "S02", session())
    with pytest.raises(UserError, match="S02: contains the same session as recording 'S01'"):
        find("empatica_e4", tmp_path)


def test_beats_are_optional_sorted_and_counted_once(tmp_path):
    files = session()
    without = {k: v for k, v in files.items() if k != "IBI.csv"}
    for name, text in {"no_beats": f"{START}.0, IBI\n", "empty": ""}.items():
        write_folder(tmp_path / name, without | {"IBI.csv": text})
        assert load_one(tmp_path / name).beats is None
    write_folder(tmp_path / "none", without)
    assert load_one(tmp_path / "none").beats is None
    header = files["IBI.csv"].splitlines()[0]
    write_folder(tmp_path / "again", without | {"IBI.csv": f"{header}\n5.0,0.8\n{header}\n4.2,0.9\n5.0,0.8\n"})
    np.testing.assert_array_equal(load_one(tmp_path / "again").beats.time_s, [4.2, 5.0])


def test_nan_samples_are_gaps(tmp_path):
    files = session(seconds=130)
    lines = files["BVP.csv"].splitlines()
    lines[2 + 64 * 10 : 2 + 64 * 13] = ["NaN"] * (64 * 3)  # 3 s in the first minute
    files["BVP.csv"] = "\n".join(lines)
    write_folder(tmp_path / "S01", files)
    keep_all = PreprocessSettings(max_motion_g=9, min_ppg_quality=0, max_clipped_fraction=1)
    batch = preprocess(load_one(tmp_path), keep_all)
    assert (batch.examined, batch.rejected["gap"], len(batch.ppg)) == (2, 1, 1)


def break_line(files, name, line, text):
    lines = files[name].splitlines()
    lines[line - 1] = text
    return files | {name: "\n".join(lines) + "\n"}


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda f: break_line(f, "ACC.csv", 5, "1,2"), r"S01/ACC.csv: line 5: expected 3 columns, got 2"),
        (
            lambda f: {
                k: "\n".join(line.rsplit(",", 1)[0] for line in v.splitlines()) if k == "ACC.csv" else v
                for k, v in f.items()
            },
            r"S01/ACC.csv: line 1: expected 3 columns, got 2",
        ),
        (lambda f: break_line(f, "BVP.csv", 7, "0.5x"), r"S01/BVP.csv: line 7: not a number \('0.5x'\)"),
        (
            lambda f: break_line(f, "ACC.csv", 5, "3,-129,3"),
            r"S01/ACC.csv: line 5: outside the sensor's range of -128 to 127 counts",
        ),
        (lambda f: break_line(f, "BVP.csv", 7, ""), r"S01/BVP.csv: line 7: not a number"),
        (lambda f: break_line(f, "BVP.csv", 7, "inf"), r"S01/BVP.csv: stream 'ppg': has infinite values"),
        (lambda f: break_line(f, "BVP.csv", 2, "32"), r"S01/BVP.csv: line 2: the sample rate must be 64 Hz.*got '32'"),
        (lambda f: break_line(f, "BVP.csv", 2, "0"), r"S01/BVP.csv: line 2: the sample rate"),
        (lambda f: break_line(f, "ACC.csv", 2, "nan, nan, nan"), r"S01/ACC.csv: line 2: the sample rate must be 32 Hz"),
        (lambda f: break_line(f, "BVP.csv", 1, "nan"), r"S01/BVP.csv: line 1: the start time"),
        (lambda f: f | {"BVP.csv": "\n".join(f["BVP.csv"].splitlines()[:2])}, r"S01/BVP.csv: has no samples"),
        (lambda f: f | {"BVP.csv": ""}, r"S01/BVP.csv: the two header lines"),
        (lambda f: f | {"BVP.csv": f"{START}\n64\n" + "nan\n" * 9}, r"S01/BVP.csv: stream 'ppg': .*only NaN"),
        (lambda f: {k: v for k, v in f.items() if k != "ACC.csv"}, r"S01: ACC.csv is missing"),
        (lambda f: break_line(f, "IBI.csv", 2, "1.5"), r"S01/IBI.csv: line 2: expected 2 columns, got 1"),
        (lambda f: break_line(f, "IBI.csv", 3, "nan,0.8"), r"S01/IBI.csv: line 3: the beat has no time"),
        (
            lambda f: break_line(f, "IBI.csv", 1, f"{START + 200_000}.0, IBI"),
            r"IBI.csv: line 1: the beats begin 2.315 days away",
        ),
        (lambda f: break_line(f, "BVP.csv", 20, ""), r"S01/BVP.csv: line 20: not a number \(''\)"),
        (lambda f: break_line(f, "BVP.csv", 20, "1_0"), r"S01/BVP.csv: line 20: not a number \('1_0'\)"),
        (lambda f: break_line(f, "BVP.csv", 20, "500,19"), r"S01/BVP.csv: line 20: expected 1 column, got 2"),
        (lambda f: break_line(f, "IBI.csv", 2, "1.5,-1"), r"S01/IBI.csv: beats: intervals must be positive"),
    ],
)
def test_bad_file_is_named_with_its_line(tmp_path, broken, message):
    write_folder(tmp_path / "S01", broken(session()))
    (source,) = find("empatica_e4", tmp_path)
    with pytest.raises(UserError, match=message):
        source.load()


def test_empty_folder_and_folder_without_session(tmp_path):
    with pytest.raises(UserError, match="no recording of kind 'empatica_e4' found"):
        find("empatica_e4", tmp_path)


def test_cut_off_zip_is_listed_and_named_on_loading(tmp_path):
    write_folder(tmp_path / "S01", session())
    whole = zipped(session(start=START + 9, seconds=20))
    (tmp_path / "S02.zip").write_bytes(whole[: len(whole) // 2])
    good, cut = find("empatica_e4", tmp_path)
    assert good.load() and cut.participant_id == "S02"
    with pytest.raises(UserError, match=r"S02.zip: the zip is damaged or cut off"):
        cut.load()


def test_damaged_member_and_damaged_inner_zip_are_named(tmp_path):
    whole = bytearray(zipped(session(seconds=20)))
    whole[3000:3200] = bytes(200)  # inside the compressed bytes of BVP.csv; the directory at the end stays whole
    (tmp_path / "S01.zip").write_bytes(bytes(whole))
    inner = zipped(session(start=START + 9))
    (tmp_path / "all.zip").write_bytes(zipped({"S02.zip": inner[:500]}))
    damaged = find("empatica_e4", tmp_path)
    assert len(damaged) == 2
    for source, name in zip(damaged, ("S01.zip", "all.zip/S02.zip"), strict=True):
        with pytest.raises(UserError, match=f"{name}: the zip is damaged"):
            source.load()


def test_stress_predict(shared_data):
    root = shared_data / "stress_predict"
    if not root.is_dir():
        pytest.skip("stress_predict is not among the real recordings here")
    sources = find("empatica_e4", root)
    assert [s.participant_id for s in sources] == [f"S{i:02d}" for i in range(1, 36)]
    for index in (5, 33):  # S06 from a folder, S34 from a zip: both calm
        recording = sources[index].load()
        batch = preprocess(recording, PreprocessSettings())
        assert 50 <= batch.examined <= 60
        assert batch.examined == len(batch.ppg) + sum(batch.rejected.values())
        assert len(batch.ppg) > 0.4 * batch.examined
        assert np.isfinite(batch.columns["hr_bpm"]).mean() > 0.5
        # The strongest frequency of the PPG is the pulse rate of the beats.
        known = np.isfinite(batch.columns["hr_bpm"])
        spectrum = np.abs(np.fft.rfft(batch.ppg[known, :, 0] * np.hanning(3840), 4 * 3840))
        hz = np.fft.rfftfreq(4 * 3840, 1 / 64)
        spectrum[:, (hz < 0.7) | (hz > 2.5)] = 0
        error = np.abs(60 * hz[spectrum.argmax(1)] - batch.columns["hr_bpm"][known])
        assert np.median(error) < 2.0
        assert np.median(np.linalg.norm(batch.accel, axis=-1)) == pytest.approx(1.0, abs=0.03)


def test_nurses_sessions_and_copies(shared_data):
    root = shared_data / "nurse_stress_e4"
    if not root.is_dir():
        pytest.skip("nurse_stress_e4 is not among the real recordings here")
    sources = find("empatica_e4", root)
    assert len({s.participant_id for s in sources}) == 15
    assert sum(len(s.copies) for s in sources) == 2  # two sessions are also unpacked
    again = next(s for s in sources if s.recording_id.endswith("BG_1607218219"))  # parts of its IBI.csv occur twice
    assert (np.diff(again.load().beats.time_s) > 0).all()
