"""What has been made fast stays fast: loose ratios against the peers, alternating within one run, up to three tries each.

Shapes are the paper's in width and tokens, cut in depth and batch. The bounds are far below what `benchmark step` and `benchmark
input` measure on a machine that does nothing else. Times are no matter for a suite that shares its cores: these run only where
ACCDISTILL_SPEED_GUARD=1 asks for them, alone (`ACCDISTILL_SPEED_GUARD=1 python -m pytest -m long tests/benchmark/test_guard.py`).
"""

import argparse
import importlib.util
import os

import pytest

from accdistill_jax.benchmark import contest
from accdistill_jax.benchmark.__main__ import build_parser, say
from accdistill_jax.benchmark.commands import input as reading
from accdistill_jax.benchmark.commands import step
from accdistill_jax.benchmark.contest import Measured
from accdistill_jax.config.load import parse_overridable

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(os.environ.get("ACCDISTILL_SPEED_GUARD") != "1", reason="times: set ACCDISTILL_SPEED_GUARD=1"),
]
TRIES = 3


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """The suite's fake devices would be four threads' worth of work on fewer cores."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)


def parsed(command: str, *options: str) -> argparse.Namespace:
    """The arguments of a command; settings of the config as --config.KEY=VALUE."""
    arguments, arguments.overrides = parse_overridable(build_parser(command), [command, *options])
    return arguments


def best(measure, floor: float) -> float:
    """The best ratio of some tries, the first that reaches `floor` ending them."""
    found = []
    for _ in range(TRIES):
        found.append(measure())
        if found[-1] >= floor:
            break
    return max(found)


def measured_step(what: str) -> dict[str, Measured]:
    shallow = [f"--config.{who}.encoder.transformer.depth=2" for who in ("teacher", "student")]
    options = ("--rounds=5", "--round-s=1", "--batch=8", "--compile-mode=none", "--only", what)
    record = step.measure(parsed("step", *options, *shallow), say)
    part = record["distillation" if what == "distil" else "masking"]
    return {name: Measured(**one) for name, one in part.items()}


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
@pytest.mark.timeout(1800)
def test_the_distillation_step_is_no_slower_than_eager_pytorch():
    def ratio():
        found = measured_step("distil")
        return contest.ratios(found[step.EAGER], found[step.OURS]).median

    assert best(ratio, 1.0) >= 1.0


@pytest.mark.timeout(1800)
def test_masked_autoencoding_is_twice_as_fast_as_on_all_tokens():
    def ratio():
        found = measured_step("mae")
        return contest.ratios(found[step.UNMASKED], found[step.MASKED]).median

    assert best(ratio, 2.0) >= 2.0


@pytest.mark.skipif(importlib.util.find_spec("array_record") is None, reason="array_record is not installed")
@pytest.mark.timeout(1800)
def test_reading_is_three_times_as_fast_as_grain_over_arrayrecord(tmp_path):
    arguments = parsed("input", "--rounds=3", "--round-s=0.5", "--participants=16", "--segments=64", "--batch=128")
    store = reading.noise_store(arguments, tmp_path, say)

    def ratio():
        found = reading.by_unit(reading.measure_reading(arguments, store, say))
        peers = [one for name, one in found.items() if "ArrayRecord" in name and one.seconds]
        fastest = min(peers, key=lambda one: contest.spread(one.seconds).median)
        return contest.ratios(fastest, found[reading.ours(2)]).median

    assert best(ratio, 3.0) >= 3.0
