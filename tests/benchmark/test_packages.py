"""Packages that a measurement needs: a missing one is named in one line, without a traceback."""

import os
import subprocess
import sys

from accdistill_jax.benchmark import packages


def test_missing_modules_are_named_and_present_ones_are_not():
    assert packages.missing_line(("json", "numpy")) == ""
    line = packages.missing_line(("json", "no_such_package", "neither_this"))
    assert line.startswith("not installed here: no_such_package, neither_this; install it") and "json" not in line


def test_versions_are_those_of_installed_distributions():
    versions = packages.installed_versions()
    assert versions["jax"] and versions["numpy"] and all(versions.values())


def test_the_command_names_a_missing_package_in_one_line(repository, tmp_path):
    """ml_collections is needed to read any config."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['ml_collections'] = None\n")
    command = [sys.executable, "-m", "accdistill_jax.benchmark", "gpu", "--out=out"]
    ended = subprocess.run(
        command,
        cwd=repository,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.startswith("error: not installed here: ml_collections;") and ended.stderr.count("\n") == 1
