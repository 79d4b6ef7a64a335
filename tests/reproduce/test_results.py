"""The results that are kept with the package: whole, readable by --check, and as their page tells them."""

import re

import pytest

from accdistill_jax.reproduce.plan.grid import plan_grid
from accdistill_jax.reproduce.report.check import load_report

PAGE = "accdistill_jax/reproduce/results/README.md"
REPORTS = ("cpu", "real", "synthetic-to-real")


@pytest.mark.parametrize("name", REPORTS)
def test_a_kept_report_is_whole(repository, name):
    folder = repository / "accdistill_jax" / "reproduce" / "results" / name
    report = load_report(folder / "report.json.gz")
    assert not report["broken"] and all(run["status"] in ("finished", "cached") for run in report["runs"])
    text = (folder / "report.md").read_text(encoding="utf-8")
    pictures = re.findall(r"\]\((report/[^)]+)\)", text)
    assert pictures and all((folder / picture).is_file() for picture in pictures)
    assert report["summary"][0] in text


@pytest.mark.parametrize("name", REPORTS)
def test_a_kept_report_is_compressed_without_name_and_time(repository, name):
    folder = repository / "accdistill_jax" / "reproduce" / "results" / name
    header = (folder / "report.json.gz").read_bytes()[:8]
    assert header == b"\x1f\x8b\x08" + bytes(5), "compress it with: gzip --best --no-name report.json"
    assert not (folder / "report.json").exists()


def test_the_kept_runs_of_the_cpu_preset_are_those_that_it_has_today(repository):
    report = load_report(repository / "accdistill_jax/reproduce/results/cpu/report.json.gz")
    settings = report["settings"]
    today = plan_grid("cpu", seeds=settings["seeds"])
    kept, now = {run["name"]: run["key"] for run in report["runs"]}, {job.name: job.key for job in today.jobs}
    assert kept == now, (
        "the preset's runs are others than those of the kept results: make these anew (some hours on two cores)"
    )


def test_the_page_of_results_leads_to_what_there_is(repository):
    page = repository / PAGE
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#]+)\)", text)
    assert targets and all((page.parent / target).exists() for target in targets if "://" not in target)
    assert all((repository / path).is_file() for path in re.findall(r"--check=(\S+)", text))
