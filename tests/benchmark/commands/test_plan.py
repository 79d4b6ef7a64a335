"""The plan: hours and the limiting resource; counted operations; a predicted and measured small step."""

import json

import jax
import jax.numpy as jnp
import pytest

from accdistill_jax.benchmark import __main__ as command
from accdistill_jax.benchmark.commands import plan
from accdistill_jax.benchmark.model import budget, hardware, operations, program
from accdistill_jax.config.load import load_config


def test_operations_are_counted_through_loops():
    def fn(x):
        def body(carry, _):
            return jnp.tanh(carry @ x), None

        return jax.lax.scan(body, x, None, length=5)[0] + 1.0

    counted = operations.count_operations(jax.make_jaxpr(fn)(jnp.ones((4, 4))).jaxpr)
    assert [times for _, times in counted.products] == [5]
    assert counted.elements == 5 * 16 * operations.COSTLY_WEIGHT + 16
    compiled, operands = counted.products[0][0].compiled()
    assert compiled(*operands).shape == (4, 4)


def test_the_slowest_resource_limits_the_step_and_sets_the_hours():
    work = program.describe_work(load_config("distill:smoke-mean"), "student")
    machine = hardware.gpu("H100", 1)
    segments = budget.segments_of(work, minutes=1000)
    assert segments == 6 * 16
    settings = {"batch": 16, "mfu": 0.4, "segments": segments}
    slow_input = budget.plan(work, machine, host_bytes_per_s=1e3, **settings)
    assert slow_input.binds == "input of a host"
    seconds = 8 * 16 * work.segment_bytes / 1e3
    assert slow_input.hours == pytest.approx((segments / 128 * seconds / 3600,) * 2)
    free_input = budget.plan(work, machine, host_bytes_per_s=1e18, **settings)
    assert free_input.binds != "input of a host" and free_input.hours[0] >= free_input.hours[1] > 0


def test_the_command_prints_every_known_machine(tmp_path, capsys):
    path = tmp_path / "plan.json"
    assert command.main(["plan", "--config=configs/distill.py:smoke-mean", f"--json={path}"]) == 0
    text, record = capsys.readouterr().out, json.loads(path.read_text())
    assert all(machine.name in text for machine in hardware.known())
    assert {planned["stage"] for planned in record["plans"]} == {"teacher", "student"}


def test_slice_selects_hardware_by_name(tmp_path, capsys):
    path = tmp_path / "plan.json"
    arguments = ["plan", "--config=configs/distill.py:smoke-mean", f"--json={path}"]
    assert command.main([*arguments, "--slice", "4 x 8 h100"]) == 0
    record, text = json.loads(path.read_text()), capsys.readouterr().out
    plans = record["plans"]
    assert {planned["hardware"] for planned in plans} == {"4 x 8 H100 SXM"}
    assert record["host_bytes_per_s"] is None and "a host's input is not counted" in text
    assert all(planned["binds"] != "input of a host" and planned["host_bytes_wanted_per_s"] > 0 for planned in plans)
    assert command.main([*arguments, "--slice", "v99"]) == 2 and "known are TPU v5e" in capsys.readouterr().err


@pytest.mark.long
def test_check_compares_this_machine_with_the_plan(tmp_path, monkeypatch, capsys):
    case = plan.Case("configs/distill.py:smoke-mean", "student", 4)
    monkeypatch.setattr(plan, "CASES", (case, case._replace(batch=8, calibrates=True)))
    monkeypatch.setattr(plan, "TOLERATED", 1e-9)
    path = tmp_path / "plan.json"
    arguments = [
        "plan",
        "--config=configs/distill.py:smoke-mean",
        "--check",
        "--rounds=1",
        f"--json={path}",
        "--slice=v5e",
    ]
    assert command.main(arguments) == 1
    said, record = capsys.readouterr(), json.loads(path.read_text())
    assert "1 of 1 predicted steps are off by more than" in said.err and "(beyond)" in said.out
    known, predicted = record["check"]
    assert known["calibrates"] and known["off"] == pytest.approx(0.0, abs=1e-6) and "sets the share" in said.out
    assert predicted["predicted"] > 0 and predicted["measured"][0] > 0 and min(record["machine"].values()) > 1e6
    assert predicted["mfu"] == known["mfu"] > 0
    on_device = sum(predicted["seconds"][name] for name in ("matrix products", "device memory"))
    assert 4 / predicted["predicted"] == pytest.approx(max(on_device, predicted["seconds"]["input of a host"]))
