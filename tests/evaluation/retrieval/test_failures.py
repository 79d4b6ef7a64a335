"""Failed retrieval against the whole score matrix, and on data with known causes of failure."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score

from accdistill_jax.evaluation import evaluate
from accdistill_jax.evaluation.report.comparison_plots import retrieval_failures_figure
from accdistill_jax.evaluation.retrieval.failures import best_wrong, retrieval_failures
from accdistill_jax.evaluation.retrieval.ranks import TIE, paired_ranks, unit_rows
from accdistill_jax.evaluation.retrieval.retrieval import ProjectionPairs


def _made_up(n=400, people=20, seed=0, noise=1.5):
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(people), n // people)
    gallery = rng.standard_normal((n, 12))
    motion = np.exp(rng.standard_normal(n)) / 100
    query = gallery + noise * rng.standard_normal(gallery.shape) * (0.2 + 60 * motion[:, None])
    columns = {"hr_bpm": 60 + 20 * rng.random(n), "motion_g": motion, "ppg_quality": rng.random(n)}
    return query, gallery, who, columns


@pytest.mark.parametrize("block", [1, 7, 64, 2048])
def test_ranks_and_winners_are_those_of_the_whole_matrix(block):
    query, gallery = (unit_rows(x) for x in _made_up(n=120, people=6)[:2])
    query[5] = 0  # ties with everything
    rank, winner = best_wrong(query, gallery, block=block)
    np.testing.assert_array_equal(rank, paired_ranks(query, gallery)[0])
    score = query.astype(np.float64) @ gallery.T.astype(np.float64)
    np.fill_diagonal(score, -np.inf)
    best = score.max(axis=1)
    np.testing.assert_allclose(score[np.arange(120), winner], best, atol=1e-6)
    assert winner[5] == 0 and rank[5] == 120
    assert (winner != np.arange(120)).all()


def test_numbers_equal_a_count_over_every_pair():
    query, gallery, who, columns = _made_up()
    columns["hr_bpm"][::9] = np.nan
    columns["motion_g"][::11] = np.nan
    found = retrieval_failures(ProjectionPairs(query, gallery, who), columns)
    score = unit_rows(query) @ unit_rows(gallery).T
    right = np.diag(score).copy()
    np.fill_diagonal(score, -np.inf)
    failed = score.max(axis=1) >= right - TIE
    winner = score.argmax(axis=1)
    assert found.failures == failed.sum() > 50
    assert found.rate.value == pytest.approx(failed.mean())
    assert found.same_participant.value == pytest.approx(np.mean((who[winner] == who)[failed]))
    assert found.chance_same_participant == pytest.approx(19 / 399)
    hr = columns["hr_bpm"]
    known = np.isfinite(hr)
    counted = failed & known & known[winner]
    near = np.abs(hr - hr[winner])[counted]
    assert found.near_failures == counted.sum()
    assert found.near.value == pytest.approx(np.mean(near <= 2))
    assert found.winner_difference_bpm == pytest.approx(np.median(near))
    chance = []
    for i in np.flatnonzero(counted):
        others = known & (np.arange(400) != i)
        chance.append(np.mean(np.abs(hr[others] - hr[i]) <= 2))
    assert found.chance_near == pytest.approx(np.mean(chance))
    contrast = found.contrasts["motion_g"]
    motion, ok = columns["motion_g"], np.isfinite(columns["motion_g"])
    assert (contrast.failures, contrast.successes) == ((failed & ok).sum(), (~failed & ok).sum())
    assert contrast.auc == pytest.approx(roc_auc_score(failed[ok], motion[ok]))
    assert contrast.median_failed == pytest.approx(np.median(motion[failed & ok]))
    assert contrast.difference.value == pytest.approx(motion[failed & ok].mean() - motion[~failed & ok].mean())
    hazards = found.hazards["motion_g"]
    assert len(hazards) == 5 and sum(h.queries for h in hazards) == ok.sum()
    assert sum(h.failures for h in hazards) == (failed & ok).sum()
    for h in hazards:
        inside = ok & (motion >= h.low) & ((motion < h.high) | (h.high == motion[ok].max()))
        assert (h.queries, h.failures) == (inside.sum(), failed[inside].sum())
        assert h.share.low <= h.share.value == pytest.approx(failed[inside].mean())


def test_only_the_known_cause_is_found():
    query, gallery, who, columns = _made_up(n=800, noise=1.0)
    found = retrieval_failures(ProjectionPairs(query, gallery, who), columns)
    motion, quality = found.contrasts["motion_g"], found.contrasts["ppg_quality"]
    assert motion.auc > 0.8 and motion.difference.low > 0
    assert quality.difference.low < 0 < quality.difference.high and abs(quality.auc - 0.5) < 0.08
    shares = [h.share.value for h in found.hazards["motion_g"]]
    assert shares[-1] > 0.5 > 0.1 > shares[0]
    assert found.near.low <= found.chance_near <= found.near.high


def test_an_encoder_of_heart_rate_alone_fails_by_near_ties():
    rng = np.random.default_rng(0)
    hr = 55 + 50 * rng.random(300)
    angle = (hr - 50) / 60 * np.pi
    gallery = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    noisy = angle + 0.02 * rng.standard_normal(300)
    query = np.stack([np.cos(noisy), np.sin(noisy)], axis=1)
    found = retrieval_failures(ProjectionPairs(query, gallery, np.arange(300) % 15), {"hr_bpm": hr})
    assert found.near.value > 0.95 and found.near.low > 5 * found.chance_near
    assert found.same_participant.low < found.chance_same_participant < found.same_participant.high
    assert "motion_g is not known" in found.notes


def test_an_encoder_of_the_person_fails_within_the_person():
    rng = np.random.default_rng(0)
    who = np.arange(300) % 15
    person = rng.standard_normal((15, 8))[who]
    query, gallery = (person + 0.1 * rng.standard_normal(person.shape) for _ in range(2))
    found = retrieval_failures(ProjectionPairs(query, gallery, who), {})
    assert found.same_participant.value > 0.95
    assert found.chance_same_participant == pytest.approx(19 / 299)
    assert (found.near, found.chance_near, found.contrasts, found.hazards) == (None, None, {}, {})


def test_no_failure_and_nothing_known():
    _, gallery, who, columns = _made_up()
    columns["hr_bpm"] = np.full(400, np.nan)
    found = retrieval_failures(ProjectionPairs(gallery, gallery, who), columns)
    assert (found.failures, found.rate.value, found.same_participant, found.near) == (0, 0.0, None, None)
    assert found.notes == ["no query fails", "hr_bpm is not known"]
    assert found.contrasts["motion_g"].auc is None
    assert found.contrasts["motion_g"].difference.value is None
    assert all(h.share.value == 0 and 0 < h.share.high < 0.06 for h in found.hazards["motion_g"])
    assert isinstance(retrieval_failures_figure(found), Figure)
    assert "Infinity" not in str(evaluate.json_value(found))
    bare = retrieval_failures(ProjectionPairs(gallery, gallery, who), {})
    assert retrieval_failures_figure(bare) is None


def test_constant_quantities_and_one_participant():
    query, gallery, who, columns = _made_up()
    columns["motion_g"] = np.full(400, 0.01)
    found = retrieval_failures(ProjectionPairs(query, gallery, np.zeros(400)), columns)
    assert [h.queries for h in found.hazards["motion_g"]] == [400]
    assert found.contrasts["motion_g"].auc == 0.5
    assert found.same_participant.value == 1.0 and not found.rate.has_interval
    assert isinstance(retrieval_failures_figure(found), Figure)
    coarse = retrieval_failures(ProjectionPairs(query, gallery, who), {"ppg_quality": np.round(columns["ppg_quality"])})
    assert sum(h.queries for h in coarse.hazards["ppg_quality"]) == 400


def test_a_value_on_an_edge_belongs_to_the_bin_above():
    query, gallery, who, _ = _made_up()
    found = retrieval_failures(ProjectionPairs(query, gallery, who), {"motion_g": np.arange(400) % 6 / 100.0})
    bins = found.hazards["motion_g"]
    assert [h.low for h in bins] == pytest.approx([0.0, 0.01, 0.02, 0.03, 0.04])
    assert [h.queries for h in bins] == [67, 67, 67, 67, 132]


def test_the_figure_shows_every_panel_and_the_result_is_plain_json():
    query, gallery, who, columns = _made_up()
    found = retrieval_failures(ProjectionPairs(query, gallery, who), columns)
    figure = retrieval_failures_figure(found)
    assert len(figure.axes) == 4
    assert "failures of 400 queries" in figure.axes[-1].get_title(loc="left")
    plain = evaluate.json_value(found)
    assert "rank" not in plain and plain["hazards"]["motion_g"][0]["queries"] == 80
    assert retrieval_failures(ProjectionPairs(query, gallery, who), columns).near == found.near


def test_all_that_fail_are_a_hundred_per_cent():
    """The title once showed 1e+02 %."""
    _, gallery, who, columns = _made_up()
    figure = retrieval_failures_figure(
        retrieval_failures(ProjectionPairs(-gallery, gallery, who), {"motion_g": columns["motion_g"]})
    )
    assert figure.axes[0].get_title(loc="left") == "Motion: 100 % fail where lowest,\n100 % where highest"


def test_rows_that_do_not_match_are_refused():
    query, gallery, who, columns = _made_up()
    with pytest.raises(ValueError, match="paired projections"):
        retrieval_failures(ProjectionPairs(query, gallery[:9], who), {})
    with pytest.raises(ValueError, match="motion_g has 7 rows"):
        retrieval_failures(ProjectionPairs(query, gallery, who), {"motion_g": columns["motion_g"][:7]})
    with pytest.raises(ValueError, match="at least two"):
        retrieval_failures(ProjectionPairs(query[:1], gallery[:1], who[:1]), {})
