"""The command line, driven as a user drives it."""

import os
import subprocess
import sys
import textwrap

import pytest

from accdistill_jax.config.load import default_workdir

SMOKE = "--config=configs/distill.py:smoke"


@pytest.fixture
def command(repository):
    def run(*arguments, program=("-m", "accdistill_jax.main")):
        return subprocess.run(
            [sys.executable, *program, *arguments],
            cwd=repository,
            capture_output=True,
            text=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no config given"),
        (
            ["--config=configs/distil.py"],
            "no config file configs/distil.py; did you mean configs/distill.py?",
        ),
        (["--config=configs/distill.py:smok"], "has no preset 'smok'"),
        (
            [SMOKE, "--config.student.train.lerning_rate=1"],
            "did you mean config.student.train.learning_rate?",
        ),
        ([SMOKE, "--config.student.train", "1"], "unknown key config.student.train"),
        ([SMOKE, "--config.=1"], "unknown key config."),
        ([SMOKE, "--config.seed=abc"], "config.seed = 'abc' must be a whole number of at least 0"),
        ([SMOKE, "--config.seed"], "--config.seed"),
        ([SMOKE, "--config.runtime.mapping=pmapp"], "did you mean pmap?"),
        ([SMOKE, "--wrkdir=x"], "Did you mean: workdir"),
        ([SMOKE, "leftover"], "unexpected argument 'leftover'"),
    ],
)
def test_mistakes_get_one_line_and_status_2(command, arguments, message):
    done = command(*arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and message in done.stderr and done.stderr.count("\n") == 1


def test_config_with_a_mistake_in_it_is_named(command, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def get_config():\n    return undefined\n")
    done = command(f"--config={path}")
    assert done.returncode == 2 and done.stderr == f"error: config {path}: name 'undefined' is not defined\n"


def test_help(command):
    done = command("--help")
    assert done.returncode == 0 and "--config" in done.stdout and "--workdir" in done.stdout and not done.stderr


# Runs the command line with a stand-in for run.py, which has tests of its own.
STAND_IN = textwrap.dedent("""
    import sys, types
    from absl import app
    import accdistill_jax.main as main
    from accdistill_jax.errors import UserError
    from accdistill_jax.runtime.interrupt import Interrupted
    assert "jax" not in sys.modules

    def run(config, workdir, *, peers):
        {body}

    sys.modules["accdistill_jax.run"] = types.SimpleNamespace(run=run)
    app.run(main.main, flags_parser=main.parse_flags)
""")


@pytest.mark.parametrize(
    ("body", "status", "stdout", "stderr"),
    [
        ("print(workdir, config.seed, config.data.stores)", 0, "{workdir} 7 ('a', 'b')\n", ""),
        ("raise UserError('disk full')", 2, "", "error: disk full\n"),
        ("raise Interrupted('stopped', 15)", 143, "", "stopped\n"),
        ("raise Interrupted('stopped', 2)", 130, "", "stopped\n"),
        ("raise KeyboardInterrupt", 130, "", "stopped by SIGINT\n"),
        # what computes in the background would crash while the interpreter takes itself down
        ("import atexit; atexit.register(print, 'taken down'); raise Interrupted('stopped', 15)", 143, "", "stopped\n"),
        (
            "import jax; raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: 9 GB')",
            2,
            "",
            "error: a device ran out of memory (RESOURCE_EXHAUSTED: 9 GB); raise train.micro_batches (same result in less "
            "memory), lower batch_size or use more devices. The last checkpoint is kept.\n",
        ),
    ],
)
def test_hand_over_and_exit_status(command, tmp_path, body, status, stdout, stderr):
    overrides = ["--config.seed=7", "--config.data.stores=('a', 'b')", f"--workdir={tmp_path}"]
    done = command(SMOKE, *overrides, program=("-c", STAND_IN.format(body=body)))
    found = (done.returncode, done.stdout, done.stderr)
    assert found == (status, stdout.format(workdir=tmp_path), stderr)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
@pytest.mark.parametrize(
    ("preset", "lines"), [("paper", ["2 CPU devices, each with its part of the batch", "2"]), ("smoke", ["1"])]
)
def test_large_models_have_a_device_per_core(command, tmp_path, monkeypatch, preset, lines):
    monkeypatch.delenv("XLA_FLAGS")  # the suite sets several devices
    two_cores = "import os\nos.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])\n"
    program = two_cores + STAND_IN.format(body="import jax; print(jax.device_count())")
    done = command(f"--config=distill:{preset}", f"--workdir={tmp_path}", program=("-c", program))
    printed = done.stdout.splitlines()
    assert done.returncode == 0 and len(printed) == len(lines), done.stderr
    assert all(line.startswith(start) for line, start in zip(printed, lines, strict=True))


@pytest.mark.parametrize(
    "body", ["raise ZeroDivisionError", "import jax; raise jax.errors.JaxRuntimeError('INTERNAL')"]
)
def test_a_bug_keeps_its_traceback(command, body):
    done = command(SMOKE, program=("-c", STAND_IN.format(body=body)))
    assert done.returncode == 1 and "Traceback" in done.stderr and body.split()[-1].split("(")[0] in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--coordinator=localhost:1"], "belong together; missing: --num_processes"),
        (["--coordinator=localhost", "--num_processes=2", "--process_id=0"], "must be HOST:PORT"),
        (
            ["--coordinator=localhost:1", "--num_processes=2", "--process_id=2"],
            "--process_id=2 must be between 0 and 1",
        ),
        (["--distributed=off", "--process_id=0"], "exclude each other"),
    ],
)
def test_mistakes_about_processes(command, arguments, message):
    done = command(SMOKE, *arguments)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("argument", "workdir"),
    [
        ("configs/distill.py", "runs/distill"),
        ("configs/distill.py:smoke", "runs/distill-smoke"),
        ("elsewhere/mine.py:a,b", "runs/mine-a,b"),
    ],
)
def test_default_workdir(argument, workdir):
    assert default_workdir(argument) == workdir


def test_what_only_the_report_needs_is_not_imported_before_training():
    code = "import sys, accdistill_jax.run; print([m for m in ('matplotlib', 'sklearn', 'scipy.stats') if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
