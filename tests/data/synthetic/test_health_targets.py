"""Answers about health: drawn as they say they are, without touching a signal, and with a ceiling that is one."""

import math

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.synthetic import health_oracle, health_targets, physiology, synthetic
from accdistill_jax.data.synthetic.conditions import ACT_ON_MINUTES, CONDITIONS
from accdistill_jax.data.synthetic.health_oracle import NAMES
from accdistill_jax.data.synthetic.health_targets import CONTROL, HEALTH_TARGETS, KINDS
from accdistill_jax.errors import UserError
from accdistill_jax.evaluation.people import ceilings
from accdistill_jax.evaluation.people.roc import roc_areas

SEED, PEOPLE = 3, 3000
TRAITS = ("age_years", "bmi", "resting_hr_bpm", "pulse_wave_velocity_m_s", "hf_ms", "lf_ms", "drift_ms", "perfusion")


@pytest.fixture(scope="module")
def truth():
    return health_oracle.sample_truth(SEED, range(PEOPLE))


@pytest.fixture(scope="module")
def traits():
    people = [physiology.sample_participant(SEED, i) for i in range(PEOPLE)]
    columns = [[math.log(getattr(p, name)) for name in TRAITS] + [p.sex == "male"] for p in people]
    minutes = [[p.conditions[name] for name in ACT_ON_MINUTES] for p in people]
    return np.concatenate([np.array(columns, float), np.array(minutes, float)], axis=1)


def test_there_are_enough_targets_of_every_kind(truth):
    assert len(NAMES) == len(set(NAMES)) == len(KINDS) >= 40
    assert {kind: list(KINDS.values()).count(kind) for kind in set(KINDS.values())}.keys() == {
        "condition",
        "medication",
        "lifestyle",
        "control",
    }
    for name, share in zip(NAMES, truth.answers.mean(axis=0), strict=True):
        assert 0.05 <= share <= 0.62, (name, share)
    known = health_targets.features(physiology.sample_participant(0, 0))
    assert all(set(target.weights) <= set(known) for target in HEALTH_TARGETS)


def test_conditions_that_act_on_signals_are_drawn_as_ever():
    """The draws of the first version of the generator, written out again."""
    for index in range(200):
        rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence(SEED, spawn_key=(index, 0))))
        u, z = rng.random(32), rng.standard_normal(96)
        age, male = 18 + 67 * (0.75 * u[0] + 0.25 * u[1]), u[2] < 0.5
        bmi = np.clip(23.5 * np.exp(0.16 * z[1]) + 0.055 * (age - 18), 17, 45)
        old, stiff, vagal = age - 50, z[2], z[3]
        hypertension = u[8] < expit(-1.3 + 0.055 * old + 0.10 * (bmi - 26) + 0.9 * stiff)
        diabetes = u[9] < expit(-2.9 + 0.04 * old + 0.13 * (bmi - 26) + 0.3 * stiff - 0.3 * vagal)
        smoker = u[10] < expit(-1.7 - 0.015 * (age - 45) + 0.2 * male - 0.3 * vagal)
        training = u[11] < expit(-1.4 - 0.03 * (age - 40) - 0.25 * (bmi - 24) + 0.8 * vagal)
        apnea = u[12] < expit(-2.6 + 0.025 * old + 0.20 * (bmi - 27) + 0.9 * male)
        ectopic = u[13] < expit(-2.6 + 0.05 * old + 0.5 * stiff)
        blocker = u[14] < expit(-3.2 + 0.03 * (age - 55) + 2.3 * hypertension + 0.8 * ectopic)
        vasodilator = u[15] < expit(-4.0 + 0.02 * (age - 55) + 3.2 * hypertension)
        expected = (hypertension, diabetes, smoker, training, apnea, ectopic, blocker, vasodilator)

        person = physiology.sample_participant(SEED, index)
        assert tuple(person.conditions) == CONDITIONS
        assert tuple(person.conditions.values()) == tuple(bool(x) for x in expected)
        velocity = 5.9 + 0.001 * (age - 15) ** 2 + 0.7 * stiff * (0.6 + age / 100) + 1.1 * hypertension
        velocity += 0.6 * diabetes + 0.3 * smoker - 0.7 * vasodilator
        rest = 68 + 3 * (1 - male) + 0.25 * (bmi - 26) - 4 * vagal + 6.5 * z[4] + 4 * smoker + 3 * diabetes
        rest += -8 * training - 10 * blocker + 2 * vasodilator
        depth = np.exp(0.25 * vagal + 0.2 * z[5] - 0.011 * (np.clip(rest, 42, 100) - 68))
        depth *= 0.8**smoker * 0.65**diabetes * 0.75**blocker * 1.15**training
        assert person.pulse_wave_velocity_m_s == pytest.approx(np.clip(velocity, 4.5, 16), rel=1e-12)
        assert person.resting_hr_bpm == pytest.approx(np.clip(rest, 42, 100), rel=1e-12)
        hf = 27 * depth * np.exp(-0.016 * (age - 40) + 0.25 * z[7])
        assert person.hf_ms == pytest.approx(np.clip(hf, 2, 110), rel=1e-12)


def test_answers_are_in_the_store_and_change_no_signal(monkeypatch):
    settings = synthetic.SyntheticSettings(participants=3, segments_per_participant=2, seed=SEED)
    batch = synthetic.generate_batch(settings, 2, PreprocessSettings())
    truth = health_oracle.sample_truth(SEED, [2])
    assert batch.participant.conditions == dict(zip(NAMES, truth.answers[0].tolist(), strict=True))
    monkeypatch.setattr(synthetic, "draw_answers", lambda *_: {})
    without = synthetic.generate_batch(settings, 2, PreprocessSettings())
    assert tuple(without.participant.conditions) == CONDITIONS
    np.testing.assert_array_equal(batch.ppg, without.ppg)
    np.testing.assert_array_equal(batch.accel, without.accel)


def test_an_answer_depends_on_seed_and_participant_alone(truth):
    some = health_oracle.sample_truth(SEED, [41, 7])
    for column, values in enumerate(some):
        np.testing.assert_allclose(values, truth[column][[41, 7]], rtol=1e-9)
    other = health_oracle.sample_truth(SEED + 1, range(200)).answers
    controls = [NAMES.index(name) for name in NAMES if KINDS[name] == CONTROL]
    assert (other[:, controls] != truth.answers[:200, controls]).any(axis=0).all()
    assert health_oracle.sample_truth(SEED, []).knowable.shape == (0, len(NAMES))


def test_probabilities_are_calibrated(truth):
    for probability in (truth.drawn_with, truth.knowable):
        assert ((probability >= 0) & (probability <= 1)).all()
        error = truth.answers - probability
        spread = np.sqrt((probability * (1 - probability)).sum(axis=0)) + 1e-9
        assert np.abs(error.sum(axis=0) / spread).max() < 4.5
        for column in range(len(NAMES)):  # among those who are likely and those who are not
            high = probability[:, column] > np.median(probability[:, column])
            if 0 < high.sum() < PEOPLE:
                p = probability[high, column]
                assert abs(error[high, column].sum()) < 4.5 * math.sqrt((p * (1 - p)).sum()) + 1e-9, NAMES[column]


def test_ceilings_run_from_certainty_to_chance(truth):
    drawn = ceilings.drawn_ceilings(truth)
    expected = {}  # over draws of the answers: each person is a positive with the probability of yes
    for column, name in enumerate(NAMES):
        p = truth.knowable[:, column]
        expected[name] = float(roc_areas(p, p[None], 1.0 - p[None])[0][0])
    for column, name in enumerate(NAMES):
        assert drawn[name] == pytest.approx(
            roc_auc_score(truth.answers[:, column], truth.knowable[:, column]), abs=1e-9
        )
        yes = truth.answers[:, column].sum()
        assert abs(drawn[name] - expected[name]) < 4 * 0.5 / math.sqrt(yes), name
        if KINDS[name] == CONTROL:
            assert drawn[name] == pytest.approx(0.5, abs=1e-9) == expected[name]
        elif name in ACT_ON_MINUTES:
            assert expected[name] == pytest.approx(1.0, abs=1e-9)
        else:
            assert 0.55 < expected[name] < 0.99
    values = np.array([expected[name] for name in NAMES if KINDS[name] != CONTROL])
    assert ((values < 0.7).sum() >= 5) and ((values > 0.9).sum() >= 5) and ((values > 0.7) & (values < 0.9)).sum() >= 15


@pytest.mark.parametrize(
    "name", ["hypertension", "diabetes", "smoker", "endurance_training", "vasodilator", "metformin"]
)
def test_no_predictor_from_the_traits_exceeds_the_ceiling(truth, traits, name):
    """Fitted on one half, scored on the other, by what the signals are made of."""
    column = NAMES.index(name)
    y, half = truth.answers[:, column], PEOPLE // 2
    best = roc_auc_score(y[half:], truth.knowable[half:, column])
    x = StandardScaler().fit_transform(traits)
    x = np.concatenate([x, *(x[:, [k]] * x[:, k:9] for k in range(9))], axis=1)  # with squares and products
    models = [LogisticRegression(C=c, max_iter=300).fit(x[:half], y[:half]) for c in (0.01, 0.1)]
    reached = [roc_auc_score(y[half:], model.decision_function(x[half:])) for model in models]
    assert best - 0.05 < max(reached) < best + 0.015


def test_what_it_was_drawn_with_is_no_ceiling(truth):
    """Stiff arteries give hypertension away better than what made it likely, which its logistic model looks at."""
    column = NAMES.index("hypertension")
    drawn_with = roc_auc_score(truth.answers[:, column], truth.drawn_with[:, column])
    assert ceilings.drawn_ceilings(truth)["hypertension"] > drawn_with + 0.1


def test_ceilings_of_a_store_come_from_its_manifest(tmp_path, truth):
    settings = synthetic.SyntheticSettings(participants=3, segments_per_participant=1, seed=SEED, first_participant=5)
    store = synthetic.write_store(tmp_path / "store", settings)
    names = store.participants["participant"].to_pylist()
    found = ceilings.store_truth(store.manifest, names)
    np.testing.assert_array_equal(found.answers, truth.answers[5:8])
    table = {name: store.participants[f"condition_{name}"].to_pylist() for name in NAMES}
    np.testing.assert_array_equal(found.answers, np.array(list(table.values())).T)
    assert None in ceilings.drawn_ceilings(found).values()  # three people: some answers are all alike

    with pytest.raises(UserError, match="synthetic-4-000001 does not belong to the store's population 3"):
        ceilings.store_truth(store.manifest, ["synthetic-4-000001"])
    with pytest.raises(UserError, match="only synthetic recordings"):
        ceilings.store_truth(store.manifest | {"source": "folder"}, names)
    old = store.manifest | {"source_settings": store.manifest["source_settings"] | {"generator": 2}}
    with pytest.raises(UserError, match="version 2 of the generator"):
        ceilings.store_truth(old, names)
