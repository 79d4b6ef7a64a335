"""CITATION.cff is valid, and agrees with the package."""

import re

import yaml

import accdistill_jax
from tests.guides import REPOSITORY

CITATION = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
AUTHOR = {"name", "family-names", "given-names"}


def test_the_required_fields_are_there():
    assert CITATION["cff-version"] == "1.2.0" and CITATION["type"] == "software"
    assert all(isinstance(CITATION[key], str) and CITATION[key] for key in ("message", "title", "version", "license"))
    for work in (CITATION, *CITATION["references"]):
        assert work["authors"] and all(author and set(author) <= AUTHOR for author in work["authors"])


def test_it_agrees_with_the_package():
    assert CITATION["version"] == accdistill_jax.__version__
    assert [author["name"] for author in CITATION["authors"]] == ["The accdistill_jax authors"]
    assert (REPOSITORY / "LICENSE").read_text(encoding="utf-8").strip().startswith("Apache License")


def test_it_names_the_paper_of_the_method():
    (paper,) = CITATION["references"]
    assert {"type", "title", "authors", "year", "url"} <= paper.keys()
    assert paper["url"] == "https://arxiv.org/abs/2412.11276" and paper["url"] in (REPOSITORY / "README.md").read_text()
    assert all(re.fullmatch(r"arXiv:\d{4}\.\d{5}", known["value"]) for known in paper["identifiers"])
