"""Shared time stamps: a tone of 3 Hz keeps its amplitude and phase in the store and gaps stay, or the stream is refused."""

import dataclasses
import resource

import numpy as np
import pytest

from accdistill_jax.data.preprocessing.packets import spread_packets
from accdistill_jax.data.preprocessing.preprocess import preprocess
from accdistill_jax.data.preprocessing.resample import to_grid
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.recording import Participant, Recording, Stream
from accdistill_jax.errors import UserError

SECONDS = 150
TONE_G = 0.02


def tone(time):
    return TONE_G * np.sin(2 * np.pi * 3 * time + 0.4)


def accel(time, stamps, *, rows=None, **options):
    """Acceleration measured at `time` with the time stamps `stamps`; `rows` selects samples."""
    noise = 1e-4 * np.random.default_rng(0).standard_normal((len(time), 3))
    values = np.stack([tone(time), 0 * time, 0 * time + 1], 1) + noise
    rows = slice(None) if rows is None else rows
    return Stream("accel", values[rows], ("x", "y", "z"), "g", time_s=np.asarray(stamps, np.float64)[rows], **options)


def clock(rate, seconds=SECONDS):
    return np.arange(int(seconds * rate)) / rate


def packets(time, size, offset=0):
    """Packet of each sample, and the time of the packet's first sample."""
    number = (np.arange(len(time)) + offset) // size
    return number, time[np.maximum(number * size - offset, 0)]


def assert_tone(stream, *, error_s=0.002, missing_s=0.0):
    """Checks that the stream on the grid is the tone, with a delay of at most `error_s` and `missing_s` missing."""
    count = 64 * (SECONDS - 5)
    grid = to_grid(stream, start_s=2.0, count=count, rate_hz=64.0, gap_s=0.25)
    time, there = 2 + np.arange(count) / 64, ~grid.missing
    for part in np.array_split(np.flatnonzero(there), 5):  # everywhere, from the beginning to the end
        wave = 2 * (grid.values[part, 0] * np.exp(-2j * np.pi * 3 * time[part])).mean()
        truth = 2 * (tone(time[part]) * np.exp(-2j * np.pi * 3 * time[part])).mean()
        assert abs(wave) == pytest.approx(abs(truth), rel=0.04)
        assert abs(np.angle(wave / truth)) <= 2 * np.pi * 3 * error_s
    assert grid.missing.mean() * count / 64 == pytest.approx(missing_s, abs=0.3 + 0.1 * missing_s)


RATES = [25, 32, 52.3, 100]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("step", [0.1, 0.5, 1.0, 2.0])
def test_clocks_of_whole_steps(rate, step):
    time = clock(rate)
    stream, mended, note = spread_packets(accel(time, np.floor(time / step + 1e-9) * step))
    assert mended >= 0.99 * len(time) and f"spread at {rate:g} Hz" in note
    assert_tone(stream)
    np.testing.assert_allclose(stream.time_s, time, atol=0.1 / rate)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("begin", [0.37, 0.996])
def test_a_clock_of_whole_seconds_that_begins_within_one(rate, begin):
    time = begin + clock(rate)
    stream, *_ = spread_packets(accel(time, np.floor(time)))
    # If every second has the same number of samples, the phase of the clock within a sample period is unknown.
    np.testing.assert_allclose(stream.time_s, time, atol=1.05 / rate)
    assert not np.isnan(stream.values).any()


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("size", [2, 3, 8, 10, 25])
@pytest.mark.parametrize("inside_s", [0.0, 1e-6, 1e-3])
def test_packets(rate, size, inside_s):
    time = clock(rate)
    number, first = packets(time, size)
    if size * inside_s > 0.4 * size / rate:
        pytest.skip("samples inside the packet are no closer than outside")
    stream, mended, note = spread_packets(accel(time, first + inside_s * (np.arange(len(time)) - number * size)))
    assert mended == len(time) - (len(time) % size == 1) and f"in packets of {size} spread at {rate:g} Hz" in note
    assert_tone(stream)
    np.testing.assert_allclose(stream.time_s, time, atol=1e-3)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("size", [3, 8, 25])
def test_jitter_drift_and_rounding_of_packets(rate, size):
    rng = np.random.default_rng(1)
    time = clock(rate)
    number, first = packets(time, size)
    jitter = rng.normal(0, 0.05 * size / rate, number[-1] + 1)[number]
    assert_tone(spread_packets(accel(time, np.maximum.accumulate(first + jitter))).stream, error_s=0.012)
    assert_tone(spread_packets(accel(time, np.floor(first * 1000) / 1000)).stream)
    drift = first + 0.05 * np.sin(2 * np.pi * first / SECONDS / 8)  # follows the stamps' clock
    stream = spread_packets(accel(time, drift)).stream
    np.testing.assert_allclose(stream.time_s, time + 0.05 * np.sin(2 * np.pi * time / SECONDS / 8), atol=0.01)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("size", [3, 8, 25])
def test_lost_packets_stay_gaps(rate, size):
    rng = np.random.default_rng(2)
    time = clock(rate)
    number, first = packets(time, size)
    lost = np.isin(number, rng.choice(number[-1], 6, replace=False))
    stream = spread_packets(accel(time, first, rows=~lost)).stream
    np.testing.assert_allclose(stream.time_s, time[~lost], atol=2e-3)
    lost = np.isin(number, number[(time > 60) & (time < 70)])
    stream = spread_packets(accel(time, first, rows=~lost)).stream
    assert_tone(stream, missing_s=10)


@pytest.mark.parametrize("rate", [32, 50])
def test_seconds_that_lost_samples(rate):
    time = clock(rate)
    for begin, end, missing_s in ((60.4, 60.8, 1), (60.4, 65.2, 4.8), (60.0, 65.0, 5)):
        kept = (time < begin) | (time >= end)
        stream, _, note = spread_packets(accel(time, np.floor(time), rows=kept))
        assert_tone(stream, missing_s=missing_s)
        # The samples that exist in second 60 are known only if no whole second follows.
        assert ("of packets that are not full marked missing" in note) == (missing_s == 1)


def test_packets_that_are_not_full():
    time = clock(50)
    number, first = packets(time, 8, offset=3)
    assert_tone(spread_packets(accel(time, first)).stream)
    cut = (number % 40 == 5) & (np.arange(len(time)) % 8 > 4)
    stream, _, note = spread_packets(accel(time, first, rows=~cut))
    assert "marked missing" in note
    known = ~np.isnan(stream.values[:, 0])
    np.testing.assert_allclose(stream.time_s[known], time[~cut][known], atol=1e-3)
    sizes = np.random.default_rng(3).integers(5, 12, len(time))
    begin = np.append(0, np.cumsum(sizes))
    begin = begin[begin < len(time)]
    varying = time[begin][np.searchsorted(begin, np.arange(len(time)), side="right") - 1]
    assert_tone(spread_packets(accel(time, varying)).stream)


def test_stamps_of_the_last_sample():
    time = clock(50)[:-4]  # the last packet is incomplete
    number, _ = packets(time, 8)
    last = time[np.minimum(number * 8 + 7, len(time) - 1)]
    stream, _, note = spread_packets(accel(time, last, packet_stamp="last"))
    np.testing.assert_allclose(stream.time_s, time, atol=1e-3)
    assert "taken as its last sample's" in note
    assert_tone(stream)


def test_rows_written_twice_are_dropped():
    time = clock(50)
    number, first = packets(time, 8)
    row = np.arange(len(time))
    blocks = np.split(row, np.flatnonzero(np.diff(number)) + 1)
    some = np.concatenate([np.tile(block, 2) if k % 9 == 4 else block for k, block in enumerate(blocks)])
    overlap = np.sort(np.concatenate([row, row[(time > 50) & (time < 80)]]))
    for rows, stamps in (
        (some, first),
        (np.concatenate([np.tile(block, 2) for block in blocks]), first),
        (np.repeat(row, 2), time),
        (overlap, time),
    ):
        stream, mended, note = spread_packets(accel(time, stamps, rows=rows))
        assert f"{len(rows) - len(time)} rows that repeat others dropped" in note and mended >= len(rows) - len(time)
        np.testing.assert_allclose(stream.time_s, time, atol=1e-3)
        assert_tone(stream)


def test_equal_values_at_rest_are_no_repeats():
    time = clock(32)
    _, first = packets(time, 8)
    still = np.round(np.stack([0 * time, 0 * time, 0 * time + 1], 1) * 64) / 64
    still[::50] += 1 / 64
    stream, mended, _ = spread_packets(Stream("accel", still, ("x", "y", "z"), "g", time_s=first))
    assert mended == len(stream.values) == len(time)
    np.testing.assert_allclose(stream.time_s, time, atol=1e-3)


@pytest.mark.parametrize("rate", [25, 50, 128])
def test_streams_whose_samples_have_their_own_stamps_are_passed_on(rate):
    rng = np.random.default_rng(4)
    time = clock(rate)
    jittered = np.sort(time + rng.uniform(-0.6, 0.6, len(time)) / rate)
    for stamps, kept in (
        (time, time >= 0),
        (np.floor(time * 1000) / 1000, time >= 0),
        (jittered, time >= 0),
        (time, time % 60 < 50),
        (time, time % 5 < 0.5),
        (time, time % 1.5 < 0.3),
        (time, rng.random(len(time)) < 0.97),
        (time, rng.random(len(time)) < 0.5),
    ):
        stream = accel(time, stamps, rows=kept)
        spread = spread_packets(stream)
        assert spread.stream is stream and spread[1:] == (0, "")
    regular = dataclasses.replace(accel(time, time), time_s=None, rate_hz=float(rate))
    assert spread_packets(regular).stream is regular


def test_few_shared_stamps_are_averaged_and_counted():
    time = clock(50)
    stamps = time.copy()
    stamps[[100, 900, 2000]] = stamps[[99, 899, 1999]]
    stream = accel(time, stamps)
    spread = spread_packets(stream)
    assert (
        spread.stream is stream
        and spread.mended == 3
        and spread.note.startswith("3 samples with the stamp of the one before averaged")
    )


TIME = clock(32)
NUMBER, FIRST = packets(TIME, 8)
REFUSED = {
    "whole minutes": (np.floor(TIME / 60) * 60, "no regular packets of at most 2.5 s"),
    "float32 unix seconds": (
        (1_714_557_600 + TIME).astype(np.float32).astype(np.float64) - 1_714_557_600,
        "no regular packets of at most 2.5 s",
    ),
    "all equal": (0 * TIME, "no regular packets of at most 2.5 s"),
    "much jitter": (
        np.maximum.accumulate(FIRST + np.random.default_rng(0).normal(0, 0.1, NUMBER[-1] + 1)[NUMBER]),
        "jitter|irregular times|rate",
    ),
    "long packets with jitter": (
        np.repeat(np.arange(75) * 2.0 + np.random.default_rng(0).normal(0, 0.1, 75), 64),
        "jitter by 0",
    ),
    "a clock set back": (
        np.maximum.accumulate(FIRST - 0.5 * (FIRST > 70)),
        "more samples than the rate allows|irregular times",
    ),
    "no order": (
        np.repeat(np.cumsum(np.random.default_rng(0).exponential(0.25, len(TIME) // 8)), 8),
        "jitter|irregular times|rate",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_certain_is_refused(kind):
    stamps, reason = REFUSED[kind]
    with pytest.raises(
        UserError,
        match=rf"stream 'accel': \d+ of 4800 samples have the same time stamp as another sample.*({reason}).*; give rate_hz and start",
    ):
        spread_packets(accel(TIME, stamps))


def test_too_few_packets_are_refused():
    time = clock(50, 3)
    with pytest.raises(UserError, match="there are only 3 packets"):
        spread_packets(accel(time, np.floor(time)))


def recording(stream):
    time = clock(64)
    pulse = np.sin(2 * np.pi * 1.2 * time)[:, None]
    streams = {"ppg": Stream("ppg", pulse, ("g",), "a.u.", rate_hz=64.0, polarity="systole_up"), "accel": stream}
    return Recording("r", Participant("p"), "d", "generic", 0.0, streams)


def test_segments_hold_the_tone_and_the_account():
    time = clock(32)
    batch = preprocess(recording(accel(time, np.floor(time))), PreprocessSettings(min_ppg_quality=0))
    assert len(batch.accel) == 2 and batch.mended_stamps == {"accel": len(time)}
    assert batch.notes["accel_stamps"].startswith("4800 samples in packets of 32 spread at 32 Hz")
    for number, segment in enumerate(batch.accel[..., 0]):
        np.testing.assert_allclose(segment[64:-64], tone(60 * number + np.arange(3840) / 64)[64:-64], atol=0.002)
    with pytest.raises(UserError, match="recording 'r': stream 'accel': .* their true times are uncertain"):
        preprocess(recording(accel(time, np.floor(time / 60) * 60)), PreprocessSettings())


@pytest.mark.parametrize("inside_s", [1e-6, 2e-5])
@pytest.mark.parametrize("cycle_s", [0.39, 3.0])
def test_memory_does_not_follow_the_smallest_distance(inside_s, cycle_s):
    size = 25
    number = np.arange(size * int(SECONDS / cycle_s)) // size
    stamps = number * cycle_s + inside_s * (np.arange(len(number)) % size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        batch = preprocess(recording(accel(stamps, stamps)), PreprocessSettings(min_ppg_quality=0))
        assert batch.mended_stamps if cycle_s < 1 else batch.rejected["gap"] == batch.examined
    except UserError as error:
        assert cycle_s > 1 and "a different time stamp for each sample" in str(error)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 700_000  # kilobytes
