"""Comparison of two reports: moved numbers, reports that cannot be compared, files that are not reports."""

import copy
import gzip
import json
import math

import pytest

from accdistill_jax.errors import UserError
from accdistill_jax.reproduce.report import check


def number(value, relative=0.1, absolute=0.0):
    return {
        "value": value,
        "low": None,
        "high": None,
        "seeds": [],
        "unit": "",
        "relative": relative,
        "absolute": absolute,
    }


@pytest.fixture
def reference():
    return {
        "kind": check.KIND,
        "format_version": check.FORMAT_VERSION,
        "numbers": {
            "probes/hr": number(2.0),
            "probes/exact": number(5.0, relative=0.0),
            "retrieval/top1": number(0.9, relative=0.0, absolute=0.02),
            "retrieval/none": number(None),
        },
        "claims": [{"claim": "augmentation helps", "holds": "yes"}, {"claim": "joint is worse", "holds": "partly"}],
        "settings": {
            "preset": "cpu",
            "data": ["synthetic"],
            "grid_version": 2,
            "seeds": 3,
            "generator_version": 2,
            "versions": {"jax": "0.10"},
        },
        "runs": [],
    }


@pytest.fixture
def new(reference):
    return copy.deepcopy(reference)


def names(moved):
    return {deviation.name: deviation.why for deviation in moved}


def test_a_report_agrees_with_itself(reference):
    assert check.compare_reports(reference, reference) == []
    assert check.comparison_table(check.deviations(reference, reference)).endswith(
        "all 6 numbers and claims agree (largest differences first)."
    )


def test_tolerances_come_from_the_reference(reference, new):
    new["numbers"]["probes/hr"] = number(2.2, relative=0.0)
    new["numbers"]["retrieval/top1"]["value"] = 0.88
    assert check.compare_reports(reference, new) == []
    new["numbers"]["probes/hr"]["value"] = 2.21
    new["numbers"]["probes/exact"]["value"] = math.nextafter(5.0, 6.0)
    new["numbers"]["retrieval/top1"]["value"] = 0.85
    moved = check.compare_reports(reference, new)
    assert [deviation.name for deviation in moved] == ["probes/exact", "retrieval/top1", "probes/hr"]
    assert moved[1].share == pytest.approx(2.5) and moved[1].allowed == pytest.approx(0.02)
    text = check.comparison_table(check.deviations(reference, new))
    assert "250 %" in text and text.index("retrieval/top1") < text.index("probes/hr") < text.index("retrieval/none")
    assert text.splitlines()[-1].startswith("3 of 6 numbers and claims moved")


def test_missing_and_new_numbers_and_changed_verdicts(reference, new):
    del new["numbers"]["probes/hr"]
    new["numbers"]["probes/more"] = number(1.0)
    new["numbers"]["retrieval/none"]["value"] = 1.0
    new["numbers"]["retrieval/top1"]["value"] = None
    new["claims"][0]["holds"] = "no"
    new["claims"][1]["claim"] = "joint is much worse"
    assert names(check.compare_reports(reference, new)) == {
        "probes/hr": "is missing",
        "retrieval/none": "was not measurable",
        "retrieval/top1": "is not measurable any more",
        "augmentation helps": "holds differently",
        "joint is worse": "is another claim",
        "joint is much worse": "is another claim",
    }


def test_a_new_number_is_a_note_so_that_earlier_reports_stay_checkable(reference, new):
    new["numbers"]["probes/more"] = number(1.0)
    assert check.compare_reports(reference, new) == []
    text = check.comparison_table(check.deviations(reference, new))
    assert "is new: the reference has no such number" in text
    assert text.endswith("all 6 numbers and claims agree; 1 more are new (largest differences first).")


def test_with_only_the_other_experiments_are_not_compared(reference, new):
    new["numbers"] = {"retrieval/top1": number(0.9)}
    new["claims"] = [{"claim": "augmentation helps", "holds": "not measured"}]
    assert names(check.compare_reports(reference, new, only=["retr*"])) == {"retrieval/none": "is missing"}


def test_a_verdict_that_changes_near_its_threshold_is_a_note_and_not_a_deviation(reference, new):
    for report in (reference, new):
        report["claims"][0]["section"] = "retrieval"
    new["claims"][0]["holds"] = "partly"
    new["numbers"]["retrieval/top1"]["value"] = 0.89  # within the tolerance
    assert check.compare_reports(reference, new) == []
    assert "its numbers agree and lie near a threshold" in check.comparison_table(check.deviations(reference, new))
    new["numbers"]["retrieval/top1"]["value"] = 0.8
    assert names(check.compare_reports(reference, new)) == {
        "retrieval/top1": "moved",
        "augmentation helps": "holds differently",
    }
    new["numbers"]["retrieval/top1"]["value"] = 0.9
    for verdict in ("not measured", "no"):  # "partly" lies between "yes" and "no"
        new["claims"][0]["holds"] = verdict
        assert names(check.compare_reports(reference, new)) == {"augmentation helps": "holds differently"}


def test_with_only_a_chosen_claim_that_is_not_measured_any_more_is_a_deviation(reference, new):
    for report in (reference, new):
        report["claims"][0]["section"], report["claims"][1]["section"] = "retrieval", "probes"
    for claim in new["claims"]:
        claim["holds"] = "not measured"
    assert names(check.compare_reports(reference, new, only=["retr*"])) == {"augmentation helps": "holds differently"}


@pytest.mark.parametrize(
    ("key", "value"), [("preset", "smoke"), ("seeds", 1), ("generator_version", 3), ("data_fingerprints", "x")]
)
def test_reports_with_other_settings_are_refused(reference, new, key, value):
    new["settings"][key] = value
    with pytest.raises(UserError, match=f"the reports cannot be compared: {key} is .* in the reference, {value} here"):
        check.compare_reports(reference, new)


def test_reports_with_other_configs_are_refused_and_overrides_then_do_not_matter(reference, new):
    for settings, weight in ((reference["settings"], 1.0), (new["settings"], 10.0)):
        settings["config"] = {"student": {"token_weight": weight}, "data": {"read_concurrency": weight}}
    with pytest.raises(UserError, match=r"student.token_weight is 1 in the reference, 10 here"):
        check.compare_reports(reference, new)
    restoring = check.restoring_overrides(reference["settings"], new["settings"]["config"])
    assert restoring == {"student.token_weight": "--config.student.token_weight=1.0"}
    new["settings"] |= {"overrides": list(restoring.values()), "config": {"student": {"token_weight": 1.0}}}
    assert check.compare_reports(reference, new) == []
    assert check.restoring_overrides({}, new["settings"]["config"]) == {}


def test_a_config_key_that_one_report_lacks_counts_as_its_default(reference, new):
    reference["settings"]["config"] = {"inputs": {"accel": {"rate_share": 0.5}}}  # the first name of the key
    new["settings"]["config"] = {
        "inputs": {"accel": {"simulated_rate_fraction": 0.5}},
        "student": {"token_weight": 0.0},
    }
    assert check.compare_reports(reference, new) == []
    new["settings"]["config"]["student"]["token_weight"] = 10.0
    with pytest.raises(UserError, match=r"student.token_weight is 0 in the reference, 10 here"):
        check.compare_reports(reference, new)
    restoring = check.restoring_overrides(reference["settings"], new["settings"]["config"])
    assert restoring == {"student.token_weight": "--config.student.token_weight=0.0"}
    with pytest.raises(UserError, match=r"student.token_weight is 10 in the reference, 0 here"):
        check.compare_reports(new, reference)


def test_a_config_key_of_another_version_is_named(reference, new):
    new["settings"]["config"] = {"student": {"token_weight": 1.0}}
    reference["settings"]["config"] = {"student": {"token_weight": 1.0, "tokens_of_mars": 3}}
    with pytest.raises(UserError, match=r"compared: student.tokens_of_mars is 3 in the reference, absent here$"):
        check.compare_reports(reference, new)
    assert check.restoring_overrides(reference["settings"], new["settings"]["config"]) == {}


@pytest.mark.parametrize(
    ("key", "before", "now"),
    [
        ("representation", "statistics", "autocovariance"),
        ("pool_sizes", [100], [100, 1000]),
        ("train_segments", 10, 20),
    ],
)
def test_reports_evaluated_otherwise_are_refused_though_a_run_may_change_it(reference, new, key, before, now):
    for settings, value in ((reference["settings"], before), (new["settings"], now)):
        settings["config"] = {"evaluation": {key: value, "batch_size": value}}
    with pytest.raises(UserError, match=f"evaluation.{key} is "):
        check.compare_reports(reference, new)
    restoring = check.restoring_overrides(reference["settings"], new["settings"]["config"])
    written = tuple(before) if isinstance(before, list) else before
    assert restoring == {f"evaluation.{key}": f"--config.evaluation.{key}={written}"}


def test_versions_may_differ_and_tuples_equal_lists(reference, new):
    reference["settings"]["overrides"] = ["--config.a=1"]
    new["settings"] |= {"overrides": ("--config.a=1",), "versions": {"jax": "0.11"}}
    assert check.compare_reports(reference, new) == []


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: text[: len(text) // 2], "is not valid JSON, or is cut off"),
        (lambda text: text.replace('"format_version": 1', '"format_version": 99'), "has format version 99; .* reads 1"),
        (lambda text: text.replace(check.KIND, "other"), "is not a report of python -m accdistill_jax.reproduce"),
        (lambda text: "[1]", "is not a report"),
        (lambda text: text.replace('"numbers"', '"digits"'), "'numbers' is missing"),
        (lambda text: text.replace('"relative": 0.1', '"relative": null'), "number 'probes/hr' is incomplete"),
        (lambda text: text.replace('"value": 2.0', '"value": "two"'), "number 'probes/hr' is incomplete"),
        (lambda text: text.replace('"holds": "yes"', '"held": "yes"'), "a claim is incomplete"),
    ],
)
def test_a_file_that_is_not_a_report_is_refused(reference, tmp_path, spoil, message):
    path = tmp_path / "report.json"
    path.write_text(json.dumps(reference))
    assert check.load_report(path) == reference
    path.write_text(spoil(json.dumps(reference)))
    with pytest.raises(UserError, match=message):
        check.load_report(path)


def test_a_compressed_report_is_read_with_or_without_gz_in_its_name(reference, tmp_path):
    path = tmp_path / "report.json"
    (tmp_path / "report.json.gz").write_bytes(gzip.compress(json.dumps(reference).encode(), mtime=0))
    assert check.load_report(path) == check.load_report(tmp_path / "report.json.gz") == reference
    path.write_text(json.dumps(reference | {"runs": []}))
    assert check.load_report(path)["runs"] == []  # if both exist, the plain file is read


@pytest.mark.parametrize(
    "spoil", [lambda b: b[: len(b) // 2], lambda b: b[:30] + b"\xff" * 20 + b[50:], lambda b: b[:5]]
)
def test_a_damaged_compressed_report_is_refused(reference, tmp_path, spoil):
    path = tmp_path / "report.json.gz"
    path.write_bytes(spoil(gzip.compress(json.dumps(reference).encode(), mtime=0)))
    with pytest.raises(UserError, match=r"report\.json\.gz is a damaged gzip file"):
        check.load_report(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot read .*none.json: No such file"):
        check.load_report(tmp_path / "none.json")


def test_claims_are_found_by_id_and_in_earlier_reports_by_wording(reference, new):
    new["claims"][0]["id"] = "augmentation"
    assert check.compare_reports(reference, new) == []  # the reference has no ids
    reference["claims"][0]["id"] = "augmentation"
    new["claims"][0]["claim"] = "augmentation helps the student"
    assert check.compare_reports(reference, new) == []
    new["claims"][0]["holds"] = "no"
    assert names(check.compare_reports(reference, new)) == {"augmentation helps the student": "holds differently"}
