"""Who the synthetic participants are and how their hearts beat."""

import dataclasses
import math

import numpy as np
import pytest

from accdistill_jax.data.synthetic import physiology


def _people(count, **conditions):
    return [physiology.sample_participant(3, i, conditions=conditions) for i in range(count)]


def _rhythms(person, count, *, seed=3, index=0, **state):
    for segment in range(count):
        rng = physiology.random_stream(seed, index, segment)
        drawn = physiology.draw_state(person, rng, segment_index=segment)._replace(**state)
        yield drawn, physiology.draw_rhythm(person, drawn, rng)


def _intervals(rhythm):
    beats = rhythm.beats_s[(rhythm.beats_s >= 0) & (rhythm.beats_s <= 60)]
    return np.diff(beats)


def _plain(person, **changes):
    """The person without conditions and without any modulation but those given."""
    none = dict.fromkeys(person.conditions, False)
    quiet = {"hf_ms": 0.0, "lf_ms": 0.0, "drift_ms": 0.0, "conditions": none}
    return dataclasses.replace(person, **(quiet | changes))


@pytest.fixture(scope="module")
def people():
    return _people(1500)


def test_participants_are_plausible(people):
    def column(name):
        return np.array([getattr(person, name) for person in people])

    assert 40 < column("age_years").mean() < 60 and column("age_years").min() >= 18
    assert 23 < column("bmi").mean() < 28
    assert 62 < column("resting_hr_bpm").mean() < 73 and 8 < column("resting_hr_bpm").std() < 12
    assert np.corrcoef(column("age_years"), np.log(column("hf_ms")))[0, 1] < -0.3
    velocity = column("pulse_wave_velocity_m_s")
    assert np.corrcoef(column("age_years"), velocity)[0, 1] > 0.6
    # Reference values in the population: about 6 m/s below 30 years, 11 m/s from 70 on.
    assert 5.3 < velocity[column("age_years") < 30].mean() < 7.0
    assert 8.8 < velocity[column("age_years") >= 70].mean() < 12.0
    assert {person.sex for person in people} == {"female", "male"}
    assert len({person.participant_id for person in people}) == len(people)


def test_conditions_follow_physiology(people):
    has = {name: np.array([p.conditions[name] for p in people]) for name in physiology.CONDITIONS}
    for name, share in has.items():
        assert 0.03 < share.mean() < 0.5, name
    old = np.array([p.age_years > 60 for p in people])
    heavy = np.array([p.bmi > 27 for p in people])
    assert has["hypertension"][old].mean() > 1.5 * has["hypertension"][~old].mean()
    assert has["sleep_apnea"][heavy].mean() > 1.5 * has["sleep_apnea"][~heavy].mean()
    treated = has["hypertension"]
    assert has["beta_blocker"][treated].mean() > 3 * has["beta_blocker"][~treated].mean()


def test_a_condition_can_be_imposed_without_changing_the_rest():
    without, with_it = _people(40, beta_blocker=False), _people(40, beta_blocker=True)
    for a, b in zip(without, with_it, strict=True):
        assert b.resting_hr_bpm <= a.resting_hr_bpm
        assert b.hf_ms < a.hf_ms * math.exp(0.011 * 10) * 0.80  # depth also rises as the rate falls
        assert (a.age_years, a.height_m, a.bcg_hz) == (b.age_years, b.height_m, b.bcg_hz)
        assert {**a.conditions, "beta_blocker": True} == b.conditions
    with pytest.raises(ValueError, match="insomnia"):
        physiology.sample_participant(0, 0, conditions={"insomnia": True})


def test_vessels_stiffen_with_hypertension():
    for a, b in zip(_people(40, hypertension=False), _people(40, hypertension=True), strict=True):
        assert b.pulse_wave_velocity_m_s > a.pulse_wave_velocity_m_s + 0.5


def test_beats_without_modulation_keep_the_rate():
    person = _plain(physiology.sample_participant(3, 0))
    for hr in (48.0, 75.0, 110.0):
        for _, rhythm in _rhythms(person, 3, hr_bpm=hr):
            intervals = _intervals(rhythm)
            assert 60 / intervals.mean() == pytest.approx(hr, rel=0.003)
            assert intervals.std() < 0.007  # jitter of single beats only
            assert rhythm.beats_s[0] < -2 and rhythm.beats_s[-1] > 60.5


@pytest.mark.parametrize("name", ["hf_ms", "lf_ms"])
def test_each_modulation_has_its_size_and_its_frequency(name):
    person = _plain(physiology.sample_participant(3, 0), **{name: 40.0})
    spread, peaks, expected = [], [], []
    for state, rhythm in _rhythms(person, 40, hr_bpm=62.0, respiration_bpm=15.0, depth=1.0, activity="resting"):
        intervals = _intervals(rhythm)
        spread.append(intervals.std())
        times = rhythm.beats_s[(rhythm.beats_s >= 0) & (rhythm.beats_s <= 60)][1:]
        even = np.interp(np.arange(2, 58, 0.25), times, intervals)
        power = np.abs(np.fft.rfft((even - even.mean()) * np.hanning(len(even)), 4096)) ** 2
        peaks.append(np.fft.rfftfreq(4096, 0.25)[power.argmax()])
        expected.append(state.respiration_bpm / 60 if name == "hf_ms" else 0.095)
    assert np.mean(spread) == pytest.approx(0.040, rel=0.2)
    assert np.abs(np.subtract(peaks, expected)).mean() < 0.02


def test_ectopic_beats_come_early_and_are_followed_by_a_pause():
    person = physiology.sample_participant(3, 0)
    with_them = _plain(person, conditions={**dict.fromkeys(person.conditions, False), "ectopic_beats": True})
    found = 0
    for (_, plain), (_, ectopic) in zip(_rhythms(_plain(person), 60), _rhythms(with_them, 60), strict=True):
        moved = np.flatnonzero(plain.beats_s != ectopic.beats_s)
        found += len(moved)
        for beat in moved:
            usual = plain.beats_s[beat] - plain.beats_s[beat - 1]
            before, after = np.diff(ectopic.beats_s[beat - 1 : beat + 2])
            assert 0.6 * usual < before < 0.82 * usual
            assert after > 1.15 * usual
            assert ectopic.strength[beat] < 0.6 * plain.strength[beat]
    assert found > 5


def test_sleep_apnea_cycles_the_rate_at_night_only():
    person = physiology.sample_participant(3, 0)
    apnea = _plain(person, conditions={**dict.fromkeys(person.conditions, False), "sleep_apnea": True})
    spread = {
        activity: np.array([_intervals(r).std() for _, r in _rhythms(apnea, 30, activity=activity)])
        for activity in ("asleep", "resting")
    }
    assert spread["resting"].max() < 0.007
    assert 0.3 < (spread["asleep"] > 0.02).mean() < 0.9


def test_streams_are_independent_of_each_other():
    draws = {
        key: physiology.random_stream(*key).random()
        for key in [(0, 0), (0, 1), (1, 0), (0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]
    }
    assert len(set(draws.values())) == len(draws)
    assert physiology.random_stream(0, 0, 1).random() == draws[0, 0, 1]
    with pytest.raises(ValueError):
        physiology.random_stream(-1, 0)
