"""launch/slurm: the jobs that it submits, and the batch script's reaction to its processes' statuses.

The batch script is run here by bash, with stand-ins for SLURM's commands; srun's runs the processes one beside the other.
"""

import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

RUN = ["--", "--config=configs/distill.py", "--workdir=runs/x"]

# Starts as many processes as the script asks for, each with what SLURM would tell it, and returns the highest status.
SRUN = """
import os, signal, subprocess, sys
argv = [a for a in sys.argv[1:]]
while argv[0].startswith("--"):
    argv.pop(0)
tasks = [subprocess.Popen(argv, env={**os.environ, "SLURM_PROCID": str(k)}, start_new_session=True) for k in range(2)]
with open(os.environ["TASKS"], "w") as file:
    file.write(" ".join(str(task.pid) for task in tasks))
statuses = [task.wait() for task in tasks]
sys.exit(max(128 - s if s < 0 else s for s in statuses))
"""


def rendered(desk, *options: str) -> str:
    shown = desk.run("slurm", *options, "--dry-run", *RUN)
    assert shown.status == 0, shown.err
    return shown.out


def directives(script: str) -> list[str]:
    return re.findall(r"^#SBATCH (.*)$", script, re.MULTILINE)


def test_one_process_per_gpu_and_all_gpus_seen_by_each(desk):
    script = rendered(desk, "--nodes=2", "--gpus-per-node=4", "--cpus-per-task=8", "--time=1:00:00")
    assert {
        "--nodes=2",
        "--ntasks-per-node=4",
        "--gpus-per-node=4",
        "--cpus-per-task=8",
        "--time=1:00:00",
    } < set(directives(script))
    step = re.search(r"^srun (.*) bash", script, re.MULTILINE)[1]
    assert "--gpu-bind=none" in step and "--cpus-per-task=8" in step and "--gpus-per-task" not in script
    assert "JAX_PLATFORMS" not in script
    assert "--coordinator" not in script  # JAX finds it


def test_without_gpus_one_process_per_node(desk):
    script = rendered(desk, "--nodes=2")
    assert "--ntasks-per-node=1" in directives(script)
    assert "export JAX_PLATFORMS=cpu" in script and "--gpu" not in script


def test_the_job_may_be_requeued_keeps_its_output_and_is_warned(desk):
    script = rendered(desk, "--sbatch=--constraint=a100", "--sbatch", "--exclusive")
    wanted = {"--requeue", "--open-mode=append", "--signal=TERM@120", "--constraint=a100", "--exclusive"}
    assert wanted < set(directives(script))
    assert "srun --kill-on-bad-exit=0 " in script


def test_dry_run_prints_the_script_and_the_call_and_makes_none(desk):
    printed = desk.run("slurm", "--name=mine", "--dry-run", *RUN)
    assert not printed.calls and not (desk.folder / "runs").exists()
    made = desk.run("slurm", "--name=mine", *RUN)
    script = desk.folder / "runs" / "slurm" / "mine.sbatch"
    assert made.calls == [["sbatch", str(script)]]
    made_before = f"# mkdir -p {script.parent}\n# the script above goes into {script}\n"
    assert printed.out == f"{script.read_text()}\n{made_before}# sbatch {script}\n"


def test_the_virtual_environment_of_the_folder_is_used(desk):
    python = desk.folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    assert f"  {python} -m accdistill_jax.main --config=configs/distill.py" in rendered(desk)
    assert f"  apptainer exec --nv a.sif {python} -m" in rendered(desk, "--prefix=apptainer exec --nv a.sif")
    assert "  other -m accdistill_jax.main" in rendered(desk, "--python=other")


def test_the_batch_script_is_clean(desk, tmp_path):
    shellcheck = shutil.which("shellcheck") or shutil.which("shellcheck", path=Path(sys.executable).parent)
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    path = tmp_path / "job"
    path.write_text(rendered(desk, "--nodes=2", "--gpus-per-node=4"))
    # SC2016: the tasks' shell expands what stands in single quotes
    found = subprocess.run([shellcheck, "--exclude=SC2016", path], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def run_job(desk, ends: str, *, restarts: int = 0, state: str = "RUNNING", options: tuple[str, ...] = ()):
    """Runs the batch script with processes that end with given statuses; returns its status, its output and the calls of SLURM."""
    main = desk.folder / "main.py"
    main.write_text(f"#!{sys.executable}\nimport os, signal, sys, time\nk = int(os.environ['SLURM_PROCID'])\n{ends}\n")
    main.chmod(0o755)
    (desk.folder / "bin" / "srun").write_text(f"#!{sys.executable}\n{SRUN}")
    desk.answer("squeue", {"out": f"{state}\n"})
    desk.run("slurm", f"--python={main}", f"--directory={desk.folder}/out", *options, *RUN)
    # The stand-in for `scancel --signal=KILL` does it, with the pattern of the tasks' own processes.
    scancel = desk.folder / "bin" / "scancel"
    scancel.write_text(f"#!/bin/sh\nfor pid in $(cat {desk.folder}/tasks); do kill -KILL -$pid; done\n")
    done = subprocess.run(
        ["bash", str(desk.folder / "out" / "accdistill.sbatch")],
        capture_output=True,
        text=True,
        timeout=60,
        env={
            **desk.environment,
            "SLURM_JOB_ID": "17",
            "SLURM_JOB_NODELIST": "n[1-2]",
            "SLURM_RESTART_COUNT": str(restarts),
            "TASKS": str(desk.folder / "tasks"),
        },
    )
    calls = [call for call in desk.run("slurm", "--dry-run", *RUN).calls if call[0] == "scontrol"]
    return done.returncode, done.stdout + done.stderr, calls


REQUEUED = [["scontrol", "requeue", "17"]]


@pytest.mark.slow
@pytest.mark.parametrize(
    "ends, status, calls",
    [
        ("sys.exit(0)", 0, []),
        ("sys.exit(2)", 2, []),
        ("sys.exit(2 if k else 75)", 2, []),  # srun itself says 75
        ("sys.exit(1 if k else 75)", 1, []),
        ("sys.exit(77)", 1, []),
        ("sys.exit(130)", 130, []),
        ("sys.exit(75)", 75, REQUEUED),
        ("sys.exit(143)", 143, REQUEUED),
        ("os.kill(os.getpid(), signal.SIGKILL) if k else sys.exit(75)", 75, REQUEUED),
        ("os.abort()", 134, REQUEUED),
    ],
)
def test_requeues_only_where_that_helps(desk, ends, status, calls):
    ended, output, made = run_job(desk, ends)
    assert (ended, made) == (status, calls), output
    assert f"status {status}" in output or status == 1


def test_requeues_no_more_than_asked(desk):
    status, output, calls = run_job(desk, "sys.exit(75)", restarts=3, options=("--max-restarts=3",))
    assert (status, calls) == (75, []) and "used up" in output


@pytest.mark.slow
@pytest.mark.parametrize("state", ["COMPLETING", "CANCELLED", "PREEMPTED", ""])
def test_does_not_requeue_what_was_cancelled_or_is_requeued_already(desk, state):
    status, _, calls = run_job(desk, "sys.exit(143)", state=state)
    assert (status, calls) == (143, [])


@pytest.mark.slow
def test_a_stopped_process_is_killed_after_the_grace(desk):
    ends = "os.kill(os.getpid(), signal.SIGSTOP) if k else sys.exit(75)"
    status, output, calls = run_job(desk, ends, options=("--grace=1",))
    assert (status, calls) == (75, REQUEUED) and "still run 1 s after" in output


def test_sigterm_to_every_process_of_the_step_lets_main_save(desk):
    ends = textwrap.dedent(
        """
        def save(*_):
            time.sleep(0.3)
            os.write(1, f"saved {k}\\n".encode())  # in one piece: the other process writes at the same moment
            sys.exit(143)
        signal.signal(signal.SIGTERM, save)
        while not os.path.exists(os.environ["TASKS"]):
            time.sleep(0.05)
        os.killpg(os.getpgid(os.getppid()), signal.SIGTERM)  # as SLURM: the shell around main too
        time.sleep(30)
        """
    )
    status, output, calls = run_job(desk, ends)
    assert (status, calls) == (143, REQUEUED), output
    assert "saved 0" in output and "saved 1" in output


@pytest.mark.parametrize(
    "options, said",
    [
        (["--nodes=0", *RUN], "--nodes 0"),
        (["--gpus-per-node=all", *RUN], "all must be a whole number"),
        (["--name=a b", *RUN], "--name"),
        ([], "nothing to run"),
    ],
)
def test_wrong_settings_are_one_line(desk, options, said):
    shown = desk.run("slurm", *options)
    assert shown.status == 2 and not shown.calls
    assert said in shown.err and len(shown.err.splitlines()) == 1
