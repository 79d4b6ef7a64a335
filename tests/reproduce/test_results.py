"""The committed results: complete, readable by --check, and described by their page."""

import re
import subprocess
import sys

import pytest

from accdistill_jax.config.load import load_config
from accdistill_jax.config.tree import plain
from accdistill_jax.configs import reproduce as presets
from accdistill_jax.reproduce.plan.grid import plan_grid
from accdistill_jax.reproduce.report.check import check_alike, load_report, restoring_overrides

PAGE = "accdistill_jax/reproduce/results/README.md"
REPORTS = ("claims", "trials", "cpu", "real", "synthetic-to-real")


@pytest.mark.parametrize("name", REPORTS)
def test_a_committed_report_is_complete(repository, name):
    folder = repository / "accdistill_jax" / "reproduce" / "results" / name
    report = load_report(folder / "report.json.gz")
    assert not report["broken"] and all(run["status"] in ("finished", "cached") for run in report["runs"])
    text = (folder / "report.md").read_text(encoding="utf-8")
    pictures = re.findall(r"\]\((report/[^)]+)\)", text)
    assert pictures and all((folder / picture).is_file() for picture in pictures)
    assert report["summary"][0] in text


@pytest.mark.parametrize("name", REPORTS)
def test_the_config_of_a_committed_report_can_be_repeated(repository, name):
    """Stores may be missing here, so the present config alone is compared, with what the check restores of it."""
    settings = load_report(repository / "accdistill_jax/reproduce/results" / name / "report.json.gz")["settings"]
    preset, overrides = f"{presets.__file__}:{settings['preset']}", tuple(settings["overrides"])
    restoring = restoring_overrides(settings, plain(load_config(preset, overrides))).values()
    check_alike(settings, settings | {"config": plain(load_config(preset, (*overrides, *restoring)))})


@pytest.mark.parametrize("name", REPORTS)
def test_a_committed_report_is_compressed_without_name_and_time(repository, name):
    folder = repository / "accdistill_jax" / "reproduce" / "results" / name
    header = (folder / "report.json.gz").read_bytes()[:8]
    assert header == b"\x1f\x8b\x08" + bytes(5), "compress it with: gzip --best --no-name report.json"
    assert not (folder / "report.json").exists()


def test_the_committed_runs_are_those_of_the_plan(repository):
    """The report is of the first version of the preset `cpu`, which is `cpu-mean` now."""
    report = load_report(repository / "accdistill_jax/reproduce/results/cpu/report.json.gz")
    settings = report["settings"]
    assert settings["preset"] == "cpu-mean"
    plan = plan_grid(settings["preset"], seeds=settings["seeds"])
    committed = {run["name"]: run["key"] for run in report["runs"]}
    assert committed == {job.name: job.key for job in plan.jobs}, (
        "the runs of the preset have changed since these results; make new results (some hours on two cores)"
    )


def test_links_of_the_results_page_exist(repository):
    page = repository / PAGE
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#]+)\)", text)
    assert targets and all((page.parent / target).exists() for target in targets if "://" not in target)
    assert all((repository / path).is_file() for path in re.findall(r"--check=(\S+)", text))


@pytest.mark.slow
def test_a_committed_report_can_be_checked(repository):
    """Only planned here: the settings of the report and of this version of the code must allow a comparison."""
    reference = "accdistill_jax/reproduce/results/cpu/report.json"
    done = subprocess.run(
        [sys.executable, "-m", "accdistill_jax.reproduce", f"--check={reference}", "--only", "failures", "--list"],
        cwd=repository,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 experiments:" in done.stdout and "student-s2" in done.stdout
