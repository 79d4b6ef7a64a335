"""One CPU device against a device per core: the same batch for both, their gain, and the form that a run takes."""

import pytest

from accdistill_jax.benchmark import __main__ as command
from accdistill_jax.benchmark import contest
from accdistill_jax.benchmark.contest import Measured
from accdistill_jax.runtime import cpu_devices


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    for name in ("XLA_FLAGS", cpu_devices.VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cpu_devices, "available_cores", lambda: 2)
    return monkeypatch


def test_both_forms_share_a_batch_and_the_table_says_which_a_run_takes(machine, capsys):
    contests = []

    def compete(contenders, **options):
        contests.append(contenders)
        return {
            contender.name: Measured({"flops_per_segment": 2e6}, seconds, 1)
            for contender, seconds in zip(contenders, ([0.2, 0.4], [0.1, 0.2]), strict=True)
        }

    machine.setattr(contest, "compete", compete)
    assert command.main(["cores", "--rounds=2", "--sizes", "default", "paper"]) == 0
    text = capsys.readouterr().out
    assert "| default | 2 | 120 (80 to 160) | 240 (160 to 320) | 2.00 (2.00 to 2.00) | one device |" in text
    assert "| paper | 2 | 120 (80 to 160) | 240 (160 to 320) | 2.00 (2.00 to 2.00) | a device per core |" in text
    for single, split in contests:
        assert (single.order["batch"], split.order["batch"]) == (32, 16) and single.order["config"] == split.order[
            "config"
        ]
        assert (single.environment[cpu_devices.VARIABLE], split.environment[cpu_devices.VARIABLE]) == ("1", "2")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch=33"], "--batch 33 must be a multiple of the 2 cores"),
        (["--config.seed=1"], "unexpected argument"),
    ],
)
def test_a_batch_that_does_not_divide_and_a_config_are_refused(words, message, capsys):
    assert command.main(["cores", *words]) == 2 and message in capsys.readouterr().err


def test_a_number_of_devices_that_is_set_is_refused(machine, capsys):
    machine.setenv(cpu_devices.VARIABLE, "2")
    assert command.main(["cores"]) == 2 and "unset JAX_NUM_CPU_DEVICES" in capsys.readouterr().err


@pytest.mark.slow
def test_the_smallest_model_is_measured_in_both_forms(machine, capsys):
    words = ["cores", "--rounds=2", "--round-s=0.01", "--batch=4", "--sizes", "smoke"]
    assert command.main(words) == 0, capsys.readouterr().err
    assert "| smoke |" in capsys.readouterr().out
