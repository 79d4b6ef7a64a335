"""The tutorial: its training is a valid config; from nothing it ends with an encoder that reads heart rate, and a plot."""

import ast
import importlib.util
import re
from pathlib import Path

import matplotlib.image
import pytest

from accdistill_jax.config.load import load_config
from tests.guides import run

MODULE = "accdistill_jax.tutorial.first_minute"


def source() -> str:
    """The tutorial's text; importing it would run it."""
    spec = importlib.util.find_spec(MODULE)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).read_text(encoding="utf-8")


def test_its_training_is_a_valid_config():
    (training,) = (
        ast.literal_eval(node.value)
        for node in ast.parse(source()).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "TRAINING"
    )
    choice, *overrides = training
    config = load_config(choice.removeprefix("--config="), overrides)
    assert config.data.synthetic.participants == 150 and config.student.objective == "distillation"


def test_it_has_cells_of_text_and_code():
    cells = re.findall(r"^# %%(.*)$", source(), re.MULTILINE)
    assert cells.count(" [markdown]") >= 5 and cells.count("") >= 5


def run_tutorial(text: str, folder: Path, monkeypatch, *, timeout_s: float) -> tuple[float, float]:
    """Runs a text of the tutorial in a folder on one device; returns the probe's error and that of a constant guess, in bpm."""
    monkeypatch.setenv("XLA_FLAGS", "")
    (folder / "tutorial.py").write_text(text, encoding="utf-8")
    done = run(["python", "tutorial.py"], folder, timeout_s=timeout_s)
    assert done.returncode == 0, done.stderr
    picture = matplotlib.image.imread(folder / "runs" / "tutorial" / "first_minute.png")
    assert picture.shape[0] > 300 and picture.std() > 0.05
    assert (folder / "runs" / "tutorial" / "report.md").is_file()
    error, guess = re.findall(r"error on unseen people: ([\d.]+) bpm; a constant guess: ([\d.]+)", done.stdout)[0]
    return float(error), float(guess)


@pytest.mark.slow
def test_it_goes_from_nothing_to_a_plot(tmp_path, monkeypatch):
    text = (
        source()
        .replace("participants=150", "participants=30")
        .replace("segments_per_participant=30", "segments_per_participant=8")
    )
    text = re.sub(r"duration=\d+ steps", "duration=4 steps", text)
    text = text.replace('--config=distill:mean"', '--config=distill:smoke-mean"')
    assert text.count('=30"') == 1 and text.count("=4 steps") == 2 and "distill:smoke-mean" in text
    error, guess = run_tutorial(text, tmp_path, monkeypatch, timeout_s=300)
    assert error > 0 and guess > 0


@pytest.mark.long
def test_its_student_reads_heart_rate(tmp_path, monkeypatch):
    error, guess = run_tutorial(source(), tmp_path, monkeypatch, timeout_s=550)
    assert error < 0.8 * guess
