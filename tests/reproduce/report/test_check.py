"""Comparing two reports: what has moved, what cannot be compared, what is no report."""

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
            "seeds": 3,
            "generator_version": 2,
            "versions": {"jax": "0.10"},
        },
        "runs": [],
    }


@pytest.fixture
def found(reference):
    return copy.deepcopy(reference)


def names(moved):
    return {one.name: one.why for one in moved}


def test_a_report_agrees_with_itself(reference):
    assert check.compare_reports(reference, reference) == []
    assert check.comparison_table(check.deviations(reference, reference)).endswith(
        "all 6 numbers and claims agree (largest differences first)."
    )


def test_tolerances_are_the_references(reference, found):
    found["numbers"]["probes/hr"] = number(2.2, relative=0.0)
    found["numbers"]["retrieval/top1"]["value"] = 0.88
    assert check.compare_reports(reference, found) == []
    found["numbers"]["probes/hr"]["value"] = 2.21
    found["numbers"]["probes/exact"]["value"] = math.nextafter(5.0, 6.0)
    found["numbers"]["retrieval/top1"]["value"] = 0.85
    moved = check.compare_reports(reference, found)
    assert [one.name for one in moved] == ["probes/exact", "retrieval/top1", "probes/hr"]
    assert moved[1].share == pytest.approx(2.5) and moved[1].allowed == pytest.approx(0.02)
    text = check.comparison_table(check.deviations(reference, found))
    assert "250 %" in text and text.index("retrieval/top1") < text.index("probes/hr") < text.index("retrieval/none")
    assert text.splitlines()[-1].startswith("3 of 6 numbers and claims moved")


def test_numbers_only_in_one_and_claims_that_turned(reference, found):
    del found["numbers"]["probes/hr"]
    found["numbers"]["probes/more"] = number(1.0)
    found["numbers"]["retrieval/none"]["value"] = 1.0
    found["numbers"]["retrieval/top1"]["value"] = None
    found["claims"][0]["holds"] = "no"
    found["claims"][1]["claim"] = "joint is much worse"
    assert names(check.compare_reports(reference, found)) == {
        "probes/hr": "is missing",
        "probes/more": "is new: the reference has no such number",
        "retrieval/none": "was not measurable",
        "retrieval/top1": "is not measurable any more",
        "augmentation helps": "holds differently",
        "joint is worse": "is another claim",
        "joint is much worse": "is another claim",
    }


def test_a_part_is_compared_with_its_part(reference, found):
    found["numbers"] = {"retrieval/top1": number(0.9)}
    found["claims"] = [{"claim": "augmentation helps", "holds": "not measured"}]
    assert names(check.compare_reports(reference, found, only=["retr*"])) == {"retrieval/none": "is missing"}


def test_a_claim_that_turns_at_the_edge_of_its_rule_is_told_and_no_alarm(reference, found):
    for report in (reference, found):
        report["claims"][0]["section"] = "retrieval"
    found["claims"][0]["holds"] = "partly"
    found["numbers"]["retrieval/top1"]["value"] = 0.89  # within what is allowed
    assert check.compare_reports(reference, found) == []
    assert "its numbers agree and lie near a threshold" in check.comparison_table(check.deviations(reference, found))
    found["numbers"]["retrieval/top1"]["value"] = 0.8
    assert names(check.compare_reports(reference, found)) == {
        "retrieval/top1": "moved",
        "augmentation helps": "holds differently",
    }
    found["numbers"]["retrieval/top1"]["value"] = 0.9
    found["claims"][0]["holds"] = "not measured"
    assert names(check.compare_reports(reference, found)) == {"augmentation helps": "holds differently"}


@pytest.mark.parametrize(
    ("key", "value"), [("preset", "smoke"), ("seeds", 1), ("generator_version", 3), ("data_fingerprints", "x")]
)
def test_reports_that_were_made_otherwise_are_not_compared(reference, found, key, value):
    found["settings"][key] = value
    with pytest.raises(UserError, match=f"the reports cannot be compared: {key} is .* in the reference, {value} here"):
        check.compare_reports(reference, found)


def test_versions_and_tuples_are_no_hindrance(reference, found):
    reference["settings"]["overrides"] = ["--config.a=1"]
    found["settings"] |= {"overrides": ("--config.a=1",), "versions": {"jax": "0.11"}}
    assert check.compare_reports(reference, found) == []


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
def test_what_is_no_report_is_refused(reference, tmp_path, spoil, message):
    path = tmp_path / "report.json"
    path.write_text(json.dumps(reference))
    assert check.load_report(path) == reference
    path.write_text(spoil(json.dumps(reference)))
    with pytest.raises(UserError, match=message):
        check.load_report(path)


def test_a_compressed_report_is_read_by_either_name(reference, tmp_path):
    path = tmp_path / "report.json"
    (tmp_path / "report.json.gz").write_bytes(gzip.compress(json.dumps(reference).encode(), mtime=0))
    assert check.load_report(path) == check.load_report(tmp_path / "report.json.gz") == reference
    path.write_text(json.dumps(reference | {"runs": []}))
    assert check.load_report(path)["runs"] == []  # the plain file counts where both exist


@pytest.mark.parametrize(
    "spoil", [lambda b: b[: len(b) // 2], lambda b: b[:30] + b"\xff" * 20 + b[50:], lambda b: b[:5]]
)
def test_a_damaged_compressed_report_is_refused(reference, tmp_path, spoil):
    path = tmp_path / "report.json.gz"
    path.write_bytes(spoil(gzip.compress(json.dumps(reference).encode(), mtime=0)))
    with pytest.raises(UserError, match=r"report\.json\.gz is a damaged gzip file"):
        check.load_report(path)


def test_no_such_file(tmp_path):
    with pytest.raises(UserError, match="cannot read .*none.json: No such file"):
        check.load_report(tmp_path / "none.json")


def test_claims_are_found_by_id_and_in_earlier_reports_by_wording(reference, found):
    found["claims"][0]["id"] = "augmentation"
    assert check.compare_reports(reference, found) == []  # the reference has no ids
    reference["claims"][0]["id"] = "augmentation"
    found["claims"][0]["claim"] = "augmentation helps the student"
    assert check.compare_reports(reference, found) == []
    found["claims"][0]["holds"] = "no"
    assert names(check.compare_reports(reference, found)) == {"augmentation helps the student": "holds differently"}
