"""launch/README.md against the launchers: its commands parse, its flags exist, its table matches the program."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from accdistill_jax.errors import ExitStatus

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "launch" / "README.md").read_text(encoding="utf-8")
VARIABLES = {
    "PROJECT": "p",
    "REGION": "us-central1",
    "BUCKET": "gs://b",
    "NUMBER": "123",
    "JOBSET": "v0.0.1",
    "TPU_POD_SERVICE_ACCOUNT": "accdistill@p.iam.gserviceaccount.com",
    "TPU_POD_ZONE": "us-central1-a",
    "TPU_POD_ACCELERATOR_TYPE": "v5litepod-16",
}
BLOCKS = re.findall(r"^ *```bash\n(.*?)^ *```$", TEXT, re.DOTALL | re.MULTILINE)
LINES = [part.strip() for block in BLOCKS for line in block.splitlines() for part in line.split(" #")[0].split(";")]
LINES += re.findall(r"`((?:launch/\w+|gcloud) [^`]+)`", TEXT)


def commands(start: str) -> list[list[str]]:
    found = [line for line in LINES if re.match(start, line)]
    assert found, f"no command {start}: has the README lost it?"
    expanded = [re.sub(r"\$(\w+)", lambda match: VARIABLES[match[1]], line) for line in found]
    return [shlex.split(line) for line in expanded]


@pytest.mark.parametrize("words", commands("launch/"), ids=" ".join)
def test_launchers_take_the_commands(desk, words):
    separator = words.index("--") if "--" in words else len(words)
    words = [*words[:separator], "--dry-run", *words[separator:]]
    done = subprocess.run(
        words,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env={**desk.environment, **VARIABLES, "CUDA_VISIBLE_DEVICES": "0,1,2,3"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("words", commands("gcloud "), ids=" ".join)
def test_gcloud_knows_the_commands(words):
    gcloud = shutil.which("gcloud")
    table = Path(gcloud).resolve().parents[1] / "data" / "cli" / "gcloud_completions.py" if gcloud else None
    if table is None or not table.exists():
        pytest.skip("the Google Cloud SDK is not installed")
    names: dict = {}
    exec(table.read_text(), names)
    node = names["STATIC_COMPLETION_CLI_TREE"]
    words = words[1:]
    while words and words[0] in node.get("commands", {}):
        node = node["commands"][words.pop(0)]
    assert not node.get("commands"), f"no command {words[0]}"
    flags = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert flags - {"--project"} <= set(node["flags"])


CLOUD = TEXT.split("## A Cloud TPU pod from an empty project")[1].split("\n## SLURM")[0]


def test_variables_are_set_before_they_are_used():
    known = set()
    for line in CLOUD.splitlines():
        used = set(re.findall(r"\$([A-Z_]+)", line))
        words = line.strip()
        if words.startswith("export "):
            names = re.findall(r"([A-Z_]+)=", words)
            known.update(names)
        assert used <= known, f"{used - known} in: {line}"
    assert known - {"TPU_POD_PROJECT"} == VARIABLES.keys()


@pytest.mark.parametrize("title", ["A Cloud TPU pod from an empty project", "GKE"])
def test_what_is_created_is_deleted_again(title):
    section = TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]
    made = re.findall(r"gcloud ([a-z -]+) create (\S+)", section)
    assert made
    for group, name in made:
        thing = re.escape(name)
        if group == "storage buckets":
            wanted = rf"gcloud storage rm --recursive {thing}"
        elif group == "iam service-accounts":
            wanted = rf"gcloud iam service-accounts delete (\$TPU_POD_SERVICE_ACCOUNT|{thing})"
        else:
            wanted = rf"gcloud {group} delete {thing}"
        assert re.search(wanted, section), f"nothing deletes: {group} {name}"


def test_the_image_is_built_pushed_and_run_from_the_registry_that_is_made():
    ((made, location),) = re.findall(
        r"gcloud artifacts repositories create (\S+) --repository-format=docker --location=(\S+)", CLOUD
    )
    images = re.findall(r"(\S+-docker\.pkg\.dev/\S+)", CLOUD)
    of = {extra: f"{location}-docker.pkg.dev/$PROJECT/{made}/run:{extra}" for extra in ("tpu", "cuda")}
    assert sorted(images) == sorted(3 * list(of.values()))  # built, pushed, run
    for extra, option in (("tpu", "--tpu-type"), ("cuda", "--gpu-type")):
        assert f"--build-arg EXTRA={extra} --tag {of[extra]} " in CLOUD
        assert re.search(rf"launch/gke apply --image {re.escape(of[extra])} .* {option} ", CLOUD)
    assert f"gcloud auth configure-docker {location}-docker.pkg.dev\n" in CLOUD


def test_node_pools_fit_the_jobs_that_are_shown():
    pools = {words[words.index("create") + 1]: words for words in commands("gcloud container node-pools create")}
    jobs = commands("launch/gke apply")
    slice_, gpus = pools["slice-0"], pools["gpus"]
    assert (
        "--tpu-topology=4x4" in slice_ and any("4x4" in job and "--spot" in job for job in jobs) and "--spot" in slice_
    )
    (job,) = [job for job in jobs if "--gpu-type" in job]
    values = {flag: job[job.index(flag) + 1] for flag in ("--gpu-type", "--nodes", "--gpus-per-node")}
    assert (
        f"--accelerator=type={values['--gpu-type']},count={values['--gpus-per-node']},gpu-driver-version=latest" in gpus
    )
    assert f"--num-nodes={values['--nodes']}" in gpus and ("--spot" in gpus) == ("--spot" in job)


def test_the_table_of_statuses_is_the_programs():
    table = TEXT.split("## Exit statuses")[1].split("##")[0]
    rows = {int(row): rest for row, rest in re.findall(r"^\| (\d+) \| (.*) \|$", table, re.MULTILINE)}
    assert set(rows) == {1, *map(int, ExitStatus)}
    again = {status for status, rest in rows.items() if "start again" in rest}
    assert again == {ExitStatus.RELAUNCH, ExitStatus.HUNG_UP, ExitStatus.TERMINATED}


def test_what_could_not_be_tried_is_marked():
    for title in ("A Cloud TPU pod from an empty project", "GKE", "SLURM"):
        section = TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]
        assert section.count("NOT TRIED") == 1


def test_files_named_exist():
    for name in re.findall(r"(?<![\w/])launch/[\w.-]*\w(?![\w$-])", TEXT):
        assert (ROOT / name).exists(), name
    assert os.access(ROOT / "launch" / "local", os.X_OK)
