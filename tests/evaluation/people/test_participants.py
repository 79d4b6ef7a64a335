"""Participant-level probes: against scikit-learn, at their ceiling and at chance, and what they refuse."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error, roc_auc_score
from sklearn.preprocessing import StandardScaler

from accdistill_jax.data.synthetic import health_oracle
from accdistill_jax.errors import UserError
from accdistill_jax.evaluation.bootstrap import ParticipantBootstrap
from accdistill_jax.evaluation.evaluate import SPLITS, json_value
from accdistill_jax.evaluation.people import ceilings
from accdistill_jax.evaluation.people.participant_targets import participant_targets
from accdistill_jax.evaluation.people.participants import (
    STRENGTHS,
    evaluate_participants,
    ridge_paths,
)
from accdistill_jax.evaluation.people.roc import roc_areas
from accdistill_jax.evaluation.report.participant_plots import auc_forest
from accdistill_jax.evaluation.split_embeddings import SplitEmbeddings

PEOPLE = {"train": 160, "validation": 60, "test": 80}


def _names(split, people=PEOPLE):
    return [f"{split}-{i:04d}" for i in range(people[split])]


def _embedded(embedding, participant):
    return SplitEmbeddings(embedding, None, participant, {})


def _encoders(latent, *, noise, minutes=4, width=24, seed=0):
    """Encoders that see a linear mixture of latent[split] [P, L] with noise per minute."""
    rng = np.random.default_rng(seed)
    encoders = {name: {} for name in noise}
    people = {split: len(values) for split, values in latent.items()}
    for name, sd in noise.items():
        mixing = rng.standard_normal((latent["train"].shape[1], width))
        for split in SPLITS:
            order = np.random.default_rng([seed, len(split)]).permutation(np.repeat(np.arange(people[split]), minutes))
            seen = latent[split][order] + sd * rng.standard_normal((len(order), latent[split].shape[1]))
            who = np.array(_names(split, people))[order]
            encoders[name][split] = _embedded((seen @ mixing).astype(np.float32), who)
    return encoders


@pytest.fixture(scope="module")
def latent():
    rng = np.random.default_rng(5)
    return {split: rng.standard_normal((n, 6)) for split, n in PEOPLE.items()}


@pytest.fixture(scope="module")
def table(latent):
    values, names = np.concatenate(list(latent.values())), sum((_names(split) for split in SPLITS), [])
    rng = np.random.default_rng(6)
    noisy = values + 0.5 * rng.standard_normal(values.shape)
    height = 1.7 + 0.05 * noisy[:, 5]
    columns = {
        "participant": names,
        "age_years": 50 + 15 * noisy[:, 0],
        "sex": np.where(noisy[:, 1] > 0, "male", "female"),
        "height_m": height,
        "weight_kg": (26 + 5 * noisy[:, 2]) * height**2,
        "condition_smoker": noisy[:, 3] > 0.8,
        "condition_shuffled": rng.random(len(names)) < 0.4,
        "condition_rare": [name in ("train-0003", "test-0001") for name in names],
    }
    return pa.table({name: pa.array(list(column)) for name, column in columns.items()})


@pytest.fixture(scope="module")
def encoders(latent):
    return _encoders(latent, noise={"teacher": 0.2, "student": 1.0, "untrained": 20.0})


@pytest.fixture(scope="module")
def result(encoders, table):
    return evaluate_participants(encoders, table, ceilings={"smoker": 0.9}, draws=200)


def _truth(table, column):
    return {k: v for k, v in zip(table["participant"].to_pylist(), table[column].to_pylist(), strict=True)}


@pytest.mark.parametrize("ties", [False, True])
def test_areas_equal_scikit_learn(ties):
    rng = np.random.default_rng(0)
    for people in (12, 60, 300):
        score, truth = rng.standard_normal(people), rng.random(people) < 0.3
        truth[:2] = True, False
        score = np.round(score) if ties else score
        draws = np.vstack([np.ones(people), rng.multinomial(people, np.full(people, 1 / people), size=4)])
        weight = np.vstack([draws, rng.random((1, people))])
        auc, partial = roc_areas(score, weight * truth, weight * ~truth, block=4)
        for w, area, part in zip(weight, auc, partial, strict=True):
            if not (w[truth].sum() and w[~truth].sum()):
                assert np.isnan(area) and np.isnan(part)
                continue
            assert area == pytest.approx(roc_auc_score(truth, score, sample_weight=w), abs=1e-12)
            assert part == pytest.approx(roc_auc_score(truth, score, sample_weight=w, max_fpr=0.1), abs=1e-12)
    ones = np.ones((1, 3))
    assert np.isnan(roc_areas(np.arange(3.0), ones, 0 * ones)).all()
    assert np.isnan(roc_areas(np.arange(3.0), 0 * ones, ones)).all()
    assert roc_areas(np.arange(3.0), np.array([[0, 0, 1.0]]), np.array([[1.0, 1, 0]])) == (1.0, 1.0)


@pytest.mark.parametrize(("rows", "width"), [(80, 12), (20, 40)])
def test_ridge_paths_equal_scikit_learn(rows, width):
    rng = np.random.default_rng(1)
    x = 50 + rng.standard_normal((rows, width)) * np.logspace(-1, 1, width)
    x[:, 2] = 7.0  # does not vary
    y = np.stack([x[:, 0] + rng.standard_normal(rows), np.sign(rng.standard_normal(rows))], axis=1)
    new = x[:9] + 0.1 * (np.arange(width) != 2)
    (found,) = ridge_paths(x, y, STRENGTHS, new)
    scaler = StandardScaler().fit(x)
    for index, strength in enumerate(STRENGTHS):
        model = Ridge(alpha=strength * rows, solver="svd").fit(scaler.transform(x), y)
        np.testing.assert_allclose(found[:, index], model.predict(scaler.transform(new)), rtol=1e-6, atol=1e-8)


def test_numbers_equal_scikit_learn_and_numpy(result, encoders, table):
    smoker = result.targets["smoker"].scores["student"]
    truth = np.array([_truth(table, "condition_smoker")[name] for name in _names("test")])
    np.testing.assert_array_equal(result.targets["smoker"].truth, truth)
    assert smoker.auc.value == pytest.approx(roc_auc_score(truth, smoker.score), abs=1e-12)
    assert smoker.partial_auc.value == pytest.approx(roc_auc_score(truth, smoker.score, max_fpr=0.1), abs=1e-12)
    age = result.targets["age_years"].scores["student"]
    years = np.array([_truth(table, "age_years")[name] for name in _names("test")])
    assert age.mae.value == pytest.approx(mean_absolute_error(years, age.prediction), rel=1e-9)
    assert age.r.value == pytest.approx(np.corrcoef(years, age.prediction)[0, 1], rel=1e-9)
    means = {}
    for split in ("train", "test"):  # the fit again, person by person
        e = encoders["student"][split]
        means[split] = np.stack(
            [e.embedding[e.participant == name].mean(axis=0, dtype=np.float64) for name in _names(split)]
        )
    scaler = StandardScaler().fit(means["train"])
    y = np.array([_truth(table, "age_years")[name] for name in _names("train")])
    model = Ridge(alpha=age.strength * len(y), solver="svd").fit(scaler.transform(means["train"]), y)
    np.testing.assert_allclose(age.prediction, model.predict(scaler.transform(means["test"])), rtol=1e-5)


def test_encoders_that_see_more_read_more(result):
    assert result.main == "student" and result.participants == PEOPLE
    for name in ("age_over_50", "sex", "bmi_over_30", "smoker"):
        scores = result.targets[name].scores
        assert scores["teacher"].auc.low > 0.7 and scores["teacher"].partial_auc.value > 0.6
        assert scores["untrained"].auc.value < scores["student"].auc.low
        assert result.targets[name].difference("untrained", "auc").outcome == "better"
    for name in ("age_years", "bmi"):
        scores = result.targets[name].scores
        assert scores["teacher"].mae.value < 0.75 * scores["mean"].mae.value and scores["mean"].r.value is None
        assert result.targets[name].difference("mean", "mae").outcome == "better"
        assert result.targets[name].difference("teacher", "mae").difference.value > 0
    assert result.targets["smoker"].ceiling == 0.9 and result.targets["sex"].ceiling is None
    assert result.targets["smoker"].strength_chosen_on == "60 validation participants"
    average = result.mean_auc
    assert average.targets == ["age_over_50", "sex", "bmi_over_30", "smoker", "shuffled"]
    values = [result.targets[name].scores["student"].auc.value for name in average.targets]
    assert average.auc["student"].value == pytest.approx(np.mean(values))
    assert {d.reference: d.outcome for d in average.differences}["untrained"] == "better"


def test_labels_that_mean_nothing_are_at_chance(result):
    for score in result.targets["shuffled"].scores.values():
        assert score.auc.low < 0.5 < score.auc.high and score.partial_auc.low < 0.5 < score.partial_auc.high


def test_intervals_and_differences_are_of_the_same_draws_of_people(result):
    target = result.targets["smoker"]
    counts = ParticipantBootstrap(np.array(_names("test")), draws=200, seed=[0, 32]).counts
    areas = {}
    for name in ("student", "teacher"):
        score = target.scores[name].score
        areas[name] = np.array([roc_auc_score(target.truth, score, sample_weight=c) for c in counts])
    drawn = np.quantile(areas["student"] - areas["teacher"], [0.02, 0.03, 0.97, 0.98])
    found = target.difference("teacher", "auc").difference
    assert drawn[0] - 0.01 < found.low < drawn[1] + 0.001 and drawn[2] - 0.001 < found.high < drawn[3] + 0.01
    width = np.ptp(np.quantile(areas["student"], [0.025, 0.975]))
    assert target.scores["student"].auc.high - target.scores["student"].auc.low == pytest.approx(width, rel=0.1)


def test_too_few_answers_are_named(result, encoders, table):
    assert result.targets["rare"].reason == "1 yes and 159 no among train participants, needs 5 of each"
    assert result.targets["rare"].scores == {} and (
        result.targets["rare"].train_yes,
        result.targets["rare"].test_yes,
    ) == (1, 1)
    names = table["participant"].to_pylist()
    bare = pa.table(
        {
            "participant": names,
            "age_years": pa.nulls(len(names), pa.float32()),
            "sex": pa.nulls(len(names), pa.string()),
        }
    )
    nothing = evaluate_participants(encoders, bare, draws=50)
    assert {t.reason for t in nothing.targets.values()} == {"unknown for every train and test participant"}
    assert len(nothing.targets) == 5 and nothing.mean_auc is None and auc_forest(nothing) is None
    few = pa.array([50.0 if name in _names("test")[:3] else None for name in names])
    found = evaluate_participants(encoders, bare.set_column(1, "age_years", few), draws=50)
    assert found.targets["age_years"].reason == "known for 0 train participants, needs 10"


def test_unknown_answers_are_left_out(encoders, table):
    smoker = table["condition_smoker"].to_pylist()
    rng = np.random.default_rng(3)
    unknown = rng.random(len(smoker)) < 0.3
    column = pa.array([None if u else s for s, u in zip(smoker, unknown, strict=True)])
    age = pa.array(np.where(unknown, np.nan, table["age_years"].to_numpy()))
    changed = table.set_column(table.column_names.index("condition_smoker"), "condition_smoker", column)
    changed = changed.set_column(table.column_names.index("age_years"), "age_years", age)
    result = evaluate_participants(encoders, changed, draws=100)
    known = {name for name, u in zip(table["participant"].to_pylist(), unknown, strict=True) if not u}
    for name in ("smoker", "age_years", "age_over_50"):
        target = result.targets[name]
        assert target.train_participants == len(known & set(_names("train")))
        assert target.test_participants == len(known & set(_names("test"))) == len(target.truth)
    assert result.mean_auc.targets == ["sex", "bmi_over_30", "shuffled"]
    # Who is unknown has no say: the same as if the person were not there.
    keep = {split: np.isin(encoders["student"][split].participant, list(known)) for split in SPLITS}
    without = {
        name: {s: _embedded(e.embedding[keep[s]], e.participant[keep[s]]) for s, e in splits.items()}
        for name, splits in encoders.items()
    }
    again = evaluate_participants(without, changed, draws=100).targets["smoker"]
    np.testing.assert_allclose(
        again.scores["student"].score, result.targets["smoker"].scores["student"].score, rtol=1e-9
    )


def test_strength_is_cross_validated_without_enough_validation_participants(encoders, table):
    some = {name: dict(splits) for name, splits in encoders.items()}
    for splits in some.values():
        e = splits["validation"]
        rows = np.isin(e.participant, _names("validation")[:4])
        splits["validation"] = _embedded(e.embedding[rows], e.participant[rows])
    result = evaluate_participants(some, table, draws=50)
    for name in ("smoker", "age_years"):
        assert result.targets[name].strength_chosen_on == "cross-validation over 160 train participants"
    assert result.targets["smoker"].scores["teacher"].auc.value > 0.75


def test_test_participants_choose_nothing(encoders, table, result):
    flipped = [not v if name in _names("test") else v for name, v in _truth(table, "condition_smoker").items()]
    index = table.column_names.index("condition_smoker")
    other = evaluate_participants(encoders, table.set_column(index, "condition_smoker", pa.array(flipped)), draws=20)
    for name, score in other.targets["smoker"].scores.items():
        before = result.targets["smoker"].scores[name]
        assert score.strength == before.strength and score.auc.value == pytest.approx(1 - before.auc.value)
        np.testing.assert_array_equal(score.score, before.score)


def test_what_is_wrong_with_the_input_is_named(encoders, table):
    def change(split, **fields):
        student = encoders["student"] | {split: dataclasses.replace(encoders["student"][split], **fields)}
        return encoders | {"student": student}

    both = {name: splits | {"test": splits["train"]} for name, splits in encoders.items()}
    with pytest.raises(UserError, match="participant train-0000 is in the splits train and test"):
        evaluate_participants(both, table)
    bad = encoders["student"]["test"].embedding.copy()
    bad[3, 1] = np.nan
    with pytest.raises(UserError, match="encoder student, split test: 1 of 320 embeddings are not finite"):
        evaluate_participants(change("test", embedding=bad), table)
    with pytest.raises(ValueError, match="rows are not the same segments"):
        evaluate_participants(change("test", participant=encoders["student"]["test"].participant[::-1]), table)
    with pytest.raises(ValueError, match="'missing' is none of teacher, student, untrained"):
        evaluate_participants(encoders, table, main="missing")
    with pytest.raises(ValueError, match="is none of no encoders"):
        evaluate_participants({}, table)
    with pytest.raises(ValueError, match="participant train-0000 of split train is not in the table"):
        evaluate_participants(encoders, table.slice(1))


def test_twice_gives_the_same_and_it_is_plain_json(encoders, table, result):
    again = evaluate_participants(encoders, table, ceilings={"smoker": 0.9}, draws=200)
    assert json_value(again) == json_value(result)
    content = json.loads(json.dumps(json_value(result)))
    assert "score" not in content["targets"]["smoker"]["scores"]["student"]
    assert content["targets"]["rare"]["reason"] and content["targets"]["smoker"]["ceiling"] == 0.9
    assert {f.name for f in dataclasses.fields(result)} == set(content)


def test_body_mass_index_comes_from_its_column_or_from_height_and_weight(table):
    ours = {t.name: t.value for t in participant_targets(table)}
    height, weight = table["height_m"].to_numpy(), table["weight_kg"].to_numpy()
    given = {t.name: t.value for t in participant_targets(table.append_column("bmi", pa.array(weight / height**2)))}
    assert ours["bmi"] == given["bmi"] and ours["bmi_over_30"] == {k: float(v > 30) for k, v in ours["bmi"].items()}


def test_a_probe_on_what_can_be_known_reaches_the_ceiling():
    people = {"train": 900, "validation": 300, "test": 600}
    truth = health_oracle.sample_truth(17, range(sum(people.values())))
    chosen = [health_oracle.NAMES.index(name) for name in ("hypertension", "raynaud", "high_stress", "insomnia")]
    controls = [k for k, name in enumerate(health_oracle.NAMES) if name.startswith("control_")]
    logits = np.log(truth.knowable / (1 - truth.knowable + 1e-12) + 1e-12)[:, chosen]
    ends = np.cumsum(list(people.values()))
    latent = dict(zip(SPLITS, np.split(logits, ends[:-1]), strict=True))
    columns = {f"condition_{health_oracle.NAMES[k]}": truth.answers[:, k] for k in chosen + controls}
    table = pa.table({"participant": sum((_names(split, people) for split in SPLITS), []), **columns})
    tops = ceilings.drawn_ceilings(health_oracle.HealthTruth(*(part[ends[1] :] for part in truth)))
    result = evaluate_participants(
        _encoders(latent, noise={"oracle": 0.0}, minutes=1, width=4), table, ceilings=tops, draws=200
    )
    for k in chosen:
        target = result.targets[health_oracle.NAMES[k]]
        auc = target.scores["oracle"].auc
        assert target.ceiling - 0.03 < auc.value < target.ceiling + 0.02 and auc.low < target.ceiling
    for k in controls:
        auc = result.targets[health_oracle.NAMES[k]].scores["oracle"].auc
        assert auc.low < 0.5 < auc.high


def test_the_figure_shows_every_scored_target(result, tmp_path):
    figure = auc_forest(result)
    figure.savefig(tmp_path / "forest.png")
    (axis,) = figure.axes
    rows = [label.get_text() for label in axis.get_yticklabels()]
    yes = [t for t in result.targets.values() if t.kind == "yes_no" and not t.reason]
    assert len(rows) == len(yes) == 5
    smoker = result.targets["smoker"]
    assert any(row == f"Smoker ({smoker.test_yes}/80)" for row in rows)
    assert len(auc_forest(result, encoders=["student"]).axes[0].get_lines()) < len(axis.get_lines())
    called = auc_forest(
        result, encoders=["student"], names={"student": "the small one"}, colours={"student": "#123456"}
    )
    assert any(text.get_text().startswith("the small one (mean") for text in called.legends[0].get_texts())
    assert "#123456" in [line.get_color() for line in called.axes[0].get_lines()]
