"""The measurements of a GPU: the rehearsal; parts continue, fail alone and are refused without a GPU."""

import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest

from accdistill_jax.benchmark import __main__ as command
from accdistill_jax.benchmark.commands import gpu, gpu_parity, gpu_plot, gpu_report, gpu_steps, step
from accdistill_jax.benchmark.contenders import kernels, variants
from accdistill_jax.config.convert import parse_section
from accdistill_jax.config.schema import Config
from accdistill_jax.errors import UserError
from accdistill_jax.models import gpu_kernels
from accdistill_jax.runtime.interrupt import Interrupted
from tests import left_behind


def start(out, *words):
    return command.main(["gpu", f"--out={out}", *words])


def recorded(out):
    """The record of the parts that have a file."""
    return {
        "parts": {
            name: json.loads((out / f"{name}.json").read_text())
            for name in gpu.PARTS
            if (out / f"{name}.json").exists()
        }
    }


@pytest.mark.long
@pytest.mark.parametrize(
    "parts", [("machine", "contest", "kernels"), ("variants",), ("small", "training"), ("input", "plan")]
)
def test_the_rehearsal_runs_parts_end_to_end(tmp_path, capsys, monkeypatch, parts):
    # the suite sets several devices; slow programs compile faster, and their speed is not looked at
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")
    status = start(tmp_path, "--tiny", "--only", *parts)
    record = recorded(tmp_path)
    assert status == 0, (record, capsys.readouterr().err)
    text = (tmp_path / "results.md").read_text()
    assert set(record["parts"]) == set(parts) and "figures mean nothing" in text
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
    for name in parts:
        CHECKS[name](record["parts"][name], text)


def check_contest(part, text):
    assert set(part["times"]) == {"ours, 4", "ours, 8"} | (
        {"PyTorch eager, 4", "PyTorch eager, 8"} if part["parity"] else set()
    )
    assert all(len(times["seconds"]) == gpu.TINY.rounds for times in part["times"].values())
    assert part["kernels"]["ours, 4"]["operations"] and "Most expensive operations: ours, 4" in text
    assert all(parity["agrees"] for parity in part["parity"].values())


def check_training(part, text):
    curves = part["curves"]
    lengths = {len(curves[dtype][stage]["loss"]) for dtype in curves for stage in ("teacher", "student")}
    assert lengths == {gpu.TINY.steps} and "loss at start, quarter, half, end" in text


def test_every_tiling_gives_the_result_of_the_form_by_xla():
    order = {"rows": 96, "width": 32, "inner": 64, "dtype": "float32", "threads": 1, "rounds": 2, "count": 1}
    tilings = {"norms": [(8, 2048, 4), (16, 2048, 8)], "gelus": [(4, 32, 4), (8, 64, 8)]}
    forms = kernels.measure_forms(order | tilings)
    assert [form["failed"] for form in forms] == [""] * 6 and all(len(form["seconds"]) == 2 for form in forms)
    assert max(form["difference"] for form in forms) < 1e-5
    text = gpu_report.WRITERS["kernels"]({"forms": json.loads(json.dumps(forms))} | order, None)
    assert "16 rows, 2048 columns, 8 warps" in text and text.count("| by XLA |") == 2


def test_a_tiling_that_does_not_compile_leaves_the_others(monkeypatch):
    order = {"rows": 96, "width": 32, "inner": 64, "dtype": "float32", "threads": 1, "rounds": 1, "count": 1}
    forms = kernels.measure_forms(order | {"norms": [(7, 2048, 4), (8, 2048, 4)], "gelus": []})
    assert [bool(form["failed"]) for form in forms] == [False, False, True, False]
    assert "Error" in gpu_report.WRITERS["kernels"]({"forms": forms} | order, None)


CHECKS = {
    "machine": lambda part, text: part["versions"]["jax"] in text or pytest.fail(text),
    "contest": check_contest,
    "kernels": lambda part, text: (
        [bool(form["seconds"]) for form in part["forms"]] == [True] * 4 and "by XLA" in text or pytest.fail(text)
    ),
    "variants": lambda part, text: (
        set(part["times"]) | set(part["unknown"]) == set(part["forms"]) == set(gpu_steps.FORMS) or pytest.fail(text)
    ),
    "small": lambda part, text: set(part["times"]) == {"student, 4", "teacher, 4"} or pytest.fail(text),
    "training": check_training,
    "input": lambda part, text: "Reading segments into host memory" in part["text"] or pytest.fail(text),
    "plan": lambda part, text: "predicted" in part["text"] or pytest.fail(text),
}


@pytest.mark.slow
def test_sigterm_ends_all_processes_and_keeps_the_finished_parts(tmp_path, repository):
    """The second part is stopped while its measuring process prepares."""
    mark = os.environ[left_behind.MARK]
    out = tmp_path / "out"
    command_line = [
        sys.executable,
        "-m",
        "accdistill_jax.benchmark",
        "gpu",
        "--tiny",
        f"--out={out}",
        "--only",
        "machine",
        "small",
    ]
    with subprocess.Popen(
        command_line, cwd=repository, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        for line in process.stderr:
            if line.startswith("small: the"):
                break
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    deadline = time.monotonic() + 20
    while left_behind.marked(mark) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left_behind.marked(mark)
    assert set(recorded(out)["parts"]) == {"machine"} and "## machine" in (out / "results.md").read_text()
    assert not list(out.glob(".*"))


@pytest.fixture
def parts(monkeypatch):
    """Replaces the parts by parts without work; gives the lists of measured and of broken parts."""
    done, broken = [], {}

    def part(name):
        def measure(context):
            done.append(name)
            if name in broken:
                raise broken[name]
            return {"text": f"{name} is measured"}

        return gpu.Part(measure, 100.0, name)

    monkeypatch.setattr(gpu, "PARTS", {name: part(name) for name in ("input", "plan")})
    return types.SimpleNamespace(done=done, broken=broken)


@pytest.mark.parametrize("problem", [UserError("the process ended"), RuntimeError("the process ended")])
def test_a_failed_part_does_not_stop_the_others_and_is_measured_again(tmp_path, parts, capsys, problem):
    parts.broken["input"] = problem
    assert start(tmp_path, "--tiny") == 1 and parts.done == ["input", "plan"]
    captured = capsys.readouterr()
    assert (
        "not measured: input" in captured.err and f"Failed: {type(problem).__name__}: the process ended" in captured.out
    )
    parts.broken.clear()
    assert start(tmp_path, "--tiny") == 0 and parts.done == ["input", "plan", "input"]
    assert start(tmp_path, "--tiny", "--again", "plan") == 0 and parts.done[3:] == ["plan"]
    assert "input is measured" in (tmp_path / "results.md").read_text()


def test_a_signal_keeps_the_finished_parts(tmp_path, parts, capsys):
    parts.broken["plan"] = Interrupted("stopped", signal.SIGTERM)
    assert start(tmp_path, "--tiny") == 128 + signal.SIGTERM
    assert (
        set(recorded(tmp_path)["parts"]) == {"input"} and "input is measured" in (tmp_path / "results.md").read_text()
    )
    parts.broken.clear()
    assert start(tmp_path, "--tiny") == 0 and parts.done == ["input", "plan", "plan"]


def test_a_part_whose_package_is_missing_names_it_and_the_others_are_measured(tmp_path, parts, capsys, monkeypatch):
    monkeypatch.setitem(gpu.PARTS, "input", gpu.PARTS["input"]._replace(modules=("no_such_package",)))
    assert start(tmp_path, "--tiny") == 1 and parts.done == ["plan"]
    assert (
        "input failed: not installed here: no_such_package; install it, or unpack its wheel" in capsys.readouterr().err
    )


def test_a_part_without_all_wanted_forms_is_measured_again(tmp_path, monkeypatch):
    names, done = list(gpu_steps.FORMS), []

    def measured(context):
        done.append(context.forms)
        return {"text": "measured", "forms": list(context.forms or names)}

    monkeypatch.setattr(gpu, "PARTS", {"input": gpu.Part(measured, 100.0, "")})
    for forms in (names[1:3], names[1:2], [], names[4:5]):
        assert start(tmp_path, "--tiny", *(["--forms", *forms] if forms else [])) == 0
    assert done == [tuple(names[1:3]), ()]


def test_a_damaged_file_of_a_part_is_named(tmp_path, parts, capsys):
    assert start(tmp_path, "--tiny") == 0
    (tmp_path / "plan.json").write_text("{")
    assert start(tmp_path, "--tiny") == 2
    assert f"{tmp_path / 'plan.json'} cannot be read" in capsys.readouterr().err


def test_a_folder_with_results_of_another_config_is_refused(tmp_path, parts, capsys):
    assert start(tmp_path, "--tiny") == 0
    assert start(tmp_path, "--tiny", "--config=configs/distill.py") == 2
    assert "holds results of distill:paper-literal --tiny: choose another --out" in capsys.readouterr().err


def test_without_a_gpu_only_the_rehearsal_runs(tmp_path, parts, capsys):
    assert start(tmp_path) == 2 and not parts.done
    assert "JAX sees no GPU here; --tiny rehearses" in capsys.readouterr().err


def test_a_part_that_exceeds_the_time_limit_is_not_started(tmp_path, parts, capsys, monkeypatch):
    monkeypatch.setattr(gpu, "accelerated", lambda: True)
    assert start(tmp_path, "--limit-s=50") == 1 and not parts.done
    assert "input: not started, it needs about 100 s and 50 s are left" in capsys.readouterr().err


def test_batches_that_are_not_multiples_of_the_first_are_refused(tmp_path, parts, capsys):
    assert start(tmp_path, "--tiny", "--batches", "4", "6") == 2
    assert "--batches 4 6: all must be multiples of the first" in capsys.readouterr().err


def test_every_form_is_a_config_that_this_version_knows():
    """On the GPU a refused form would only be reported as unknown; the measuring process reads the config again."""
    context = gpu.Context("configs/distill.py:paper-literal", (), gpu.TINY, Path(), lambda: 1.0, print)
    for form in gpu_steps.FORMS.values():
        windows = gpu_steps.in_windows(tokens=1) if "in_windows" in form else {}
        parse_section(Config, context.plain(form.get("config", {}) | windows, augmented=form.get("augmented", False)))
        with gpu_kernels.used(*form.get("kernels", ())):
            assert set(form) <= {
                "config",
                "options",
                "attention",
                "augmented",
                "large",
                "heads_factor",
                "kernels",
                "in_windows",
            }
    assert (
        context.plain({"runtime.compute_dtype": "bfloat16"}, config=gpu_steps.SMALL)["student"]["train"]["batch_size"]
        > 0
    )


def test_operations_have_the_paths_of_the_program_s_metadata():
    text = """
  %fusion.7 = bf16[8]{0} fusion(%a), kind=kLoop, metadata={op_name="jit(step)/jvp(Encoder)/block_0/mul" source_line=3}
  ROOT %dot.2 = f32[4]{0} dot(%b, %c), metadata={op_name="jit(step)/shard_map/head/dot_general"}
  %copy = f32[4]{0} copy(%b)
"""
    assert variants.operation_names(text) == {"fusion.7": "jvp(Encoder)/block_0/mul", "dot.2": "head/dot_general"}


def measured(*seconds):
    return {"seconds": list(seconds), "device_peak_bytes": 2e9}


FACTS = {"segments": 100, "flops": 1e12, "compile_s": 3.0, "temporary_bytes": 1e9, "fused_attentions": 8, "failed": ""}


def test_the_report_compares_round_by_round_and_names_failures():
    part = {
        "date": "2026-01-01",
        "seconds": 9.0,
        "facts": {"ours, 100": FACTS, "ours, 200": {"failed": "no memory"}},
        "times": {"ours, 100": measured(0.1, 0.2, 0.1), "PyTorch eager, 100": measured(0.2, 0.4, 0.2)},
        "kernels": {
            "ours, 100": {
                "failed": "",
                "total_s": 0.1,
                "count": 1,
                "operations": [{"name": "gemm|x", "source": "block_0", "seconds": 0.05, "calls": 2.0}],
            }
        },
        "parity": {"eager": {"difference": 1.0, "parameters": 0.1, "allowed": [0.03, 0.3], "agrees": False}},
        "peer": {},
        "failures": {},
    }
    machine = {"date": "2026-01-01", "seconds": 1.0, "driver": "card", "cores": 16, "peak_flops": [2e13, 1e13, 3e13]}
    machine |= {"python": "3.12.0", "versions": {"jax": "0.12.0"}} | {
        "peak_shape": "8 x 8",
        "memory_bandwidth": [4e12, 4e12, 4e12],
    }
    record = {"config": "c", "tiny": False, "parts": {"contest": part, "machine": machine}}
    text = gpu_report.report(record)
    assert "| PyTorch eager, 100 | 500 (375 to 500) | 2.00 (2.00 to 2.00) | 25.0% |" in text
    assert "| ours, 100 | 1e+03 (750 to 1e+03) |  | 50.0% |" in text and "ours, 200 | failed: no memory" in text
    assert "**NOT the same step**" in text and "| gemm/x | block_0 | 50.00 | 50.0% | 2 |" in text
    assert "Python 3.12.0, jax 0.12.0." in text
    drawn = gpu_plot.draw_measurements(record)
    assert [line.get_label() for line in drawn.axes[0].lines] == ["ours", "PyTorch eager"]
    assert [axis.texts[0].get_text() for axis in drawn.axes[1:]] == ["variants: not measured", "training: not measured"]


def test_variants_are_compared_by_segments_per_second(tmp_path):
    part = {
        "date": "2026-01-01",
        "seconds": 9.0,
        "facts": {"as configured": FACTS, "large batch": FACTS | {"segments": 800}, "other": {"failed": "no memory"}},
        "times": {"as configured": measured(0.1, 0.1, 0.1), "large batch": measured(1.0, 1.0, 1.0)},
    }
    curves = {
        stage: {"loss": [2.0, 1.0], "segments_per_s": [5.0], "input_wait_fraction": []}
        for stage in ("teacher", "student")
    }
    training = {"date": "2026-01-01", "seconds": 9.0, "steps": 2, "batch": 4, "data_s": 1.0}
    training["curves"] = {dtype: curves | {"seconds": 3.0} for dtype in ("bfloat16", "float32")}
    record = {"config": "c", "tiny": True, "parts": {"variants": part, "training": training}}
    assert "| large batch | 800 (800 to 800) | 0.80 (0.80 to 0.80) |" in gpu_report.report(record)
    drawn = gpu_plot.draw_measurements(record)
    assert [bar.get_width() for bar in drawn.axes[1].patches] == pytest.approx([0.8, 1.0])
    assert [list(line.get_ydata()) for line in drawn.axes[2].lines] == [[2.0, 1.0]] * 4


def test_a_peer_that_computes_a_different_step_is_detected(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_parity, "accelerated", lambda: False)
    weights = {"encoder/a": np.zeros(4, np.float32)}
    np.savez(tmp_path / "start.npz", **{f"params/{name}": value for name, value in weights.items()})
    np.savez(tmp_path / "followed.npz", **{name: value + 1 for name, value in weights.items()})
    np.savez(tmp_path / "peer-eager.npz", **{name: value + 1.0005 for name, value in weights.items()})
    np.savez(tmp_path / "peer-default.npz", **{name: value - 1 for name, value in weights.items()})
    steps = [{"loss": 1.0, "gradient_norm": 2.0}] * step.COMPARED_STEPS
    modes = {mode: {"failed": "", "first_steps": steps} for mode in ("eager", "default")}
    compared = gpu_parity.compare(str(tmp_path), {"first_steps": steps}, modes, dtype="float32")
    assert compared["eager"]["agrees"] and not compared["default"]["agrees"] and compared["default"]["difference"] == 0
