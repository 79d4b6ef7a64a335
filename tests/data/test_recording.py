"""Types of a recording and the values that they refuse; the registry of readers."""

import numpy as np
import pytest

from accdistill_jax.data import recordings
from accdistill_jax.data.recording import (
    Beats,
    HeartRateWindows,
    Participant,
    Recording,
    RecordingSource,
    Stream,
    named,
)
from accdistill_jax.errors import UserError

VALUES = np.zeros((4, 1), np.float32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": np.zeros(4)}, "samples, channels"),
        ({"values": np.zeros((0, 1))}, "no sample"),
        ({"channels": ("a", "b")}, "1 columns of values for 2 channels"),
        ({"values": np.full((4, 1), np.inf)}, "infinite"),
        ({"values": np.full((4, 1), np.nan)}, "only NaN"),
        ({"rate_hz": None}, "either rate_hz or time_s"),
        ({"time_s": np.arange(4.0)}, "either rate_hz or time_s"),
        ({"rate_hz": 0.0}, "must be positive, got 0.0"),
        ({"rate_hz": float("nan")}, "must be positive, got nan"),
        ({"rate_hz": 1e-9}, "1 to 100000 Hz, got 1e-09"),
        ({"rate_hz": 1e12}, "1 to 100000 Hz"),
        ({"values": np.full((4, 1), 1e300)}, "infinite"),
        ({"start_s": float("nan")}, "start time must be finite"),
        ({"rate_hz": None, "time_s": np.arange(3.0)}, "time stamps of shape .* for 4 samples"),
        ({"rate_hz": None, "time_s": np.array([0, 1, np.nan, 3])}, "time stamp of sample 2 is not a number"),
        ({"rate_hz": None, "time_s": np.array([0, 2, 1, 3.0])}, "decrease after sample 1"),
        ({"polarity": "down"}, "polarity must be one of .*got 'down'"),
        ({"range": (1, 1)}, "lowest, highest"),
        ({"name": "accel"}, "3 channels in g"),
    ],
)
def test_bad_stream_names_stream_and_fault(arguments, message):
    arguments = {"name": "ppg", "values": VALUES, "channels": ("a",), "unit": "a.u.", "rate_hz": 64.0} | arguments
    with pytest.raises(UserError, match=message) as raised:
        Stream(**arguments)
    assert arguments["name"] in str(raised.value)


def test_stream_takes_start_and_end_from_its_stamps():
    stream = Stream("ppg", VALUES, ("a",), "a.u.", time_s=np.array([2.0, 3, 4, 6]))
    assert (stream.start_s, stream.end_s, stream.polarity) == (2.0, 6.0, "unknown")
    assert Stream("ppg", VALUES, ("a",), "a.u.", start_s=1.0, rate_hz=2.0).end_s == 2.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Beats(np.arange(3.0), np.ones(2)), "times have shape"),
        (lambda: Beats(np.array([1.0, np.nan]), np.ones(2)), "not a number"),
        (lambda: Beats(np.array([2.0, 1.0]), np.ones(2)), "decrease"),
        (lambda: Beats(np.array([1.0, 2.0]), np.array([1.0, 0.0])), "intervals must be positive"),
        (lambda: HeartRateWindows(np.zeros(2), 8.0, np.zeros(3)), "windows have shape .2,"),
        (lambda: HeartRateWindows(np.zeros(2), 0.0, np.full(2, 60.0)), "longer than 0 s"),
        (
            lambda: HeartRateWindows(np.zeros(3), 8.0, np.array([np.nan, 60, 0])),
            "window 2 has 0 beats .* leave it empty",
        ),
        (
            lambda: HeartRateWindows(np.zeros(1), 8.0, np.array([7200.0])),
            "window 0 has 7200 beats .* outside 10 to 400",
        ),
        (lambda: HeartRateWindows(np.zeros(1), float("inf"), np.array([72.0])), "windows must last"),
        (lambda: Participant(""), "id must not be empty"),
        (lambda: Participant("p", height_m=180.0), "height_m must be .* got 180.0"),
        (lambda: Participant("p", sex="F"), "sex must be .* got 'F'"),
        (lambda: Participant("p", conditions={"diabetes": "no"}), "condition 'diabetes'"),
        (lambda: Recording("r", Participant("p"), "d", "s", float("nan"), {}), "recording 'r': the start time"),
        (
            lambda: Recording("r", Participant("p"), "d", "s", 1.6e12, {}),
            "recording 'r': the start time .* got 1.6e.12 .*milliseconds",
        ),
        (
            lambda: Recording(
                "r", Participant("p"), "d", "s", 0.0, {"ecg": Stream("ppg", VALUES, ("a",), "a.u.", rate_hz=1.0)}
            ),
            "under the key 'ecg' is called 'ppg'",
        ),
    ],
)
def test_bad_recording_parts_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_outer_blanks_of_ids_are_removed():
    source = RecordingSource(
        " r1\t", "P01 ", load=lambda: Recording(" r1", Participant("\u00a0P01\n"), "d", "s", 0.0, {})
    )
    loaded = source.load()
    assert (source.recording_id, source.participant_id) == ("r1", "P01")
    assert (loaded.recording_id, loaded.participant.participant_id) == ("r1", "P01")
    with pytest.raises(UserError, match="id must not be empty"):
        Participant("  ")


def test_bmi():
    assert Participant("p", height_m=2.0, weight_kg=80.0).bmi == 20.0
    assert Participant("p", weight_kg=80.0).bmi is None


def test_named_puts_the_file_in_front():
    with pytest.raises(UserError, match="^a.csv: wrong$"), named("a.csv"):
        raise UserError("wrong")


def test_registry_lists_readers_with_help_and_options():
    assert {"empatica_e4", "generic", "troika"} <= set(recordings.names())
    assert all(recordings.reader(name).summary for name in recordings.names())
    assert recordings.reader("empatica_e4").options["participant_from"].default == "auto"


def test_registry_names_the_nearest(tmp_path):
    with pytest.raises(UserError, match="did you mean 'troika'"):
        recordings.find("troica", tmp_path)
    with pytest.raises(UserError, match="did you mean 'participant_from'"):
        recordings.find("empatica_e4", tmp_path, participant_form="name")
    with pytest.raises(UserError, match="no such file or folder"):
        recordings.find("troika", tmp_path / "nowhere")
    with pytest.raises(UserError, match="no recording of kind 'troika' found"):
        recordings.find("troika", tmp_path)
