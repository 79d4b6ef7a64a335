"""The wheel: its content, and the commands and the API after its installation, in an empty folder."""

import os
import re
import shutil
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import accdistill_jax

MOST_BYTES = 3_500_000  # of them 2 MB of shipped encoders
SOURCES = ("accdistill_jax", "configs", "pyproject.toml", "README.md", "LICENSE")


def run(*command: object, cwd: Path, timeout: float = 240, status: int = 0) -> str:
    """Runs a command without the checkout on its path; returns its output."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "XLA_FLAGS")}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy of the sources without network."""
    folder = tmp_path_factory.mktemp("wheel")
    repository = Path(__file__).resolve().parents[1]
    for name in SOURCES:
        if (repository / name).is_dir():
            shutil.copytree(repository / name, folder / "sources" / name, symlinks=True)
        else:
            shutil.copy(repository / name, folder / "sources" / name)
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    run(sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", folder, folder / "sources", cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The commands' folder of an environment with the wheel; the dependencies are this environment's."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin" / "python")
    # --force-reinstall: the package may be installed among the dependencies, whose path comes behind
    run(
        *pip,
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--force-reinstall",
        "--prefix",
        folder,
        wheel,
        cwd=folder,
    )
    return folder / "bin"


def test_the_wheel_holds_the_code_the_configs_and_no_results(wheel, repository):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    code = {path.relative_to(repository).as_posix() for path in (repository / "accdistill_jax").rglob("*.py")}
    shipped = {f"accdistill_jax/configs/{path.name}" for path in (repository / "configs").glob("*.py")}
    info = {name for name in names if ".dist-info/" in name}
    page = {path.relative_to(repository).as_posix() for path in (repository / "accdistill_jax/export/page").iterdir()}
    encoders = {
        path.relative_to(repository).as_posix() for path in (repository / "accdistill_jax/shipped").glob("*/*.*")
    }
    encoders = {name for name in encoders if not name.endswith(".pyc")}
    assert len(encoders) == 15 and names - info == code | shipped | page | encoders | {"accdistill_jax/py.typed"}
    assert {name.rpartition("/")[2] for name in info} >= {"METADATA", "RECORD", "LICENSE", "entry_points.txt"}
    assert len(shipped) >= 4


def test_the_wheel_is_small_and_has_the_packages_version(wheel):
    assert wheel.name == f"accdistill_jax-{accdistill_jax.__version__}-py3-none-any.whl"
    assert wheel.stat().st_size < MOST_BYTES


def test_only_one_name_is_installed_beside_the_metadata(installed):
    (packages,) = installed.parent.glob("lib/python*/site-packages")
    info = f"accdistill_jax-{accdistill_jax.__version__}.dist-info"
    assert {path.name for path in packages.iterdir()} == {"accdistill_jax", info, "dependencies.pth"}


def test_the_console_command_runs_in_an_empty_folder(installed, tmp_path):
    assert "train" in run(installed / "accdistill", "--help", cwd=tmp_path)
    assert run(installed / "accdistill", "--version", cwd=tmp_path) == f"accdistill {accdistill_jax.__version__}\n"
    error = run(installed / "accdistill", "train", "--config=distil:smoke", cwd=tmp_path, status=2)
    assert error.endswith("no config distil comes with the package; did you mean distill? (a file: --config=FILE.py)\n")
    listing = run(installed / "accdistill", "reproduce", "--preset=smoke", "--list", cwd=tmp_path)
    assert re.search(r"^\d+ experiments:$", listing, re.MULTILINE)
    assert not list(tmp_path.iterdir())


def test_the_package_is_imported_from_the_wheel(installed, tmp_path):
    program = "import accdistill_jax as ad; print(ad.__file__); print(callable(ad.load), callable(ad.open_store))"
    place, callables = run(installed / "python", "-c", program, cwd=tmp_path).splitlines()
    assert Path(place).is_relative_to(installed.parent) and callables == "True True"


@pytest.mark.slow
def test_a_run_of_the_wheel_is_trained_and_loaded(installed, tmp_path):
    output = run(installed / "accdistill", "train", "--config=distill:smoke", cwd=tmp_path)
    assert "/runs/distill-smoke/report.md" in output
    program = """
import accdistill_jax as ad
encoder, store = ad.load("runs/distill-smoke"), ad.open_store("runs/distill-smoke/data/synthetic")
embeddings = encoder.encode(store.read(store.indices("test")))
print(embeddings.shape == (len(store.indices("test")), encoder.embedding_size), embeddings.std() > 0)
"""
    assert run(installed / "python", "-c", program, cwd=tmp_path).splitlines()[-1] == "True True"
    assert "segments" in run(
        installed / "accdistill", "prepare", "show", "runs/distill-smoke/data/synthetic", cwd=tmp_path
    )


@pytest.mark.slow
def test_a_shipped_encoder_embeds_a_csv_file_in_an_empty_folder(installed, tmp_path):
    rows = np.random.default_rng(0).normal([0.0, 600.0, 800.0], 2.0, (130 * 50, 3))
    np.savetxt(tmp_path / "my.csv", rows, "%.2f", ",", header="x,y,z", comments="")
    words = ("embed", "synthetic-small", "my.csv", "--out", "z.parquet", "--rate-hz", "50", "--unit", "mg")
    assert "2 of 2 minutes embedded" in run(installed / "accdistill", *words, cwd=tmp_path)
    assert "synthetic-wrist: reads acceleration" in run(installed / "accdistill", "encoders", cwd=tmp_path)
    table = pq.read_table(tmp_path / "z.parquet")
    assert table.num_rows == 2 and "hr_bpm_unknown" in table.column_names
