"""launch/tpu_pod: the exact calls of gcloud, their order, and restarts."""

import shlex
import shutil
from pathlib import Path

import pytest

OPTIONS = ["--zone=us-central1-a", "--accelerator-type=v5litepod-16", "--poll=0"]
RUN = ["--", "--config=configs/distill.py", "--workdir=gs://bucket/run"]
GCLOUD = ["gcloud", "compute", "tpus", "queued-resources"]
LIST = [*GCLOUD, "list", "--filter=name~/accdistill$", "--format=value(state.state)", "--zone=us-central1-a"]

ACTIVE = {"out": "ACTIVE\n"}


def ended(status, *, workers=2, word="ended"):
    return {"out": "".join(f"worker w-{k} {word} {status}\n" for k in range(workers))}


def verbs(result):
    """The calls in short form: list, create, delete, scp, and the commands that ssh runs on the workers."""
    short = []
    for call in result.calls:
        verb = call[4]
        command = next((a.partition("=")[2] for a in call if a.startswith("--command=")), "")
        short.append(command.split("tpu_worker ")[-1].split()[0] if verb == "ssh" else verb)
    return short


FRESH = ["list", "create", "list", "true", "scp", "install", "start"]


@pytest.fixture
def there(desk):
    """A project without TPUs; a create is granted at once and the run finishes."""

    def script(states, statuses):
        desk.answer(r" list ", *({"out": f"{state}\n" if state else ""} for state in states))
        desk.answer(r"tpu_worker status", *statuses)
        return desk

    return script


def test_up_goes_from_nothing_to_a_finished_run(there):
    desk = there(["", "ACTIVE"], [ended(0)])
    done = desk.run("tpu_pod", "up", *OPTIONS, *RUN)
    assert done.status == 0, done.err
    assert verbs(done) == [*FRESH, "list", "status"]
    assert done.calls[1] == [
        *GCLOUD,
        "create",
        "accdistill",
        "--accelerator-type=v5litepod-16",
        "--runtime-version=v2-alpha-tpuv5-lite",
        "--zone=us-central1-a",
        "--node-id=accdistill",
    ]
    assert "cost money" in done.err


def test_dry_run_calls_nothing_and_prints_what_a_real_run_calls(there):
    desk = there(["", "ACTIVE"], [ended(0)])
    odd = ["--config.a=it's (odd)"]
    printed = desk.run("tpu_pod", "up", *OPTIONS, "--delete-when-done", "--dry-run", *RUN, *odd)
    assert printed.status == 0 and printed.calls == [] and printed.err == ""
    made = desk.run("tpu_pod", "up", *OPTIONS, "--delete-when-done", *RUN, *odd)
    lines = [shlex.split(line) for line in printed.out.splitlines()]
    assert [words for words in lines if words[0] == "gcloud"] == made.calls
    assert [words[0] for words in lines if words[0] != "gcloud"] == ["mkdir", "git"]
    assert verbs(made)[-1] == "delete"


@pytest.mark.parametrize("command", ["create", "setup", "run", "status", "logs", "stop", "delete"])
def test_dry_run_of_every_step(there, command):
    desk = there(["", "ACTIVE"], [ended(0)])
    arguments = RUN if command == "run" else []
    printed = desk.run("tpu_pod", command, *OPTIONS, "--project=p", "--ssh=iap", "--dry-run", *arguments)
    made = desk.run("tpu_pod", command, *OPTIONS, "--project=p", "--ssh=iap", *arguments)
    assert printed.calls == [] and made.status == 0
    lines = [shlex.split(line) for line in printed.out.splitlines()]
    assert [words for words in lines if words[0] == "gcloud"] == made.calls
    for call in made.calls:
        assert "--project=p" in call and "--zone=us-central1-a" in call
        assert ("--tunnel-through-iap" in call) == (call[4] in ("ssh", "scp"))


def test_options_reach_the_request(there):
    desk = there(["", "ACTIVE"], [])
    made = desk.run(
        "tpu_pod",
        "create",
        "--zone=z",
        "--accelerator-type=v6e-16",
        "--slices=2",
        "--spot",
        "--valid-until=6h",
        "--service-account=me@p.iam",
        "--network=n",
        "--subnetwork=s",
        "--internal-ips",
    )
    assert made.calls[1][5:] == [
        "accdistill",
        "--accelerator-type=v6e-16",
        "--runtime-version=v2-alpha-tpuv6e",
        "--zone=z",
        "--node-count=2",
        "--node-prefix=accdistill",
        "--spot",
        "--valid-until-duration=6h",
        "--service-account=me@p.iam",
        "--network=n",
        "--subnetwork=s",
        "--internal-ips",
    ]


def test_options_may_come_from_the_environment(there):
    desk = there(["", "ACTIVE"], [])
    settings = {
        "TPU_POD_ZONE": "z",
        "TPU_POD_ACCELERATOR_TYPE": "v4-16",
        "TPU_POD_NAME": "mine",
        "TPU_POD_POLL": "0",
    }
    made = desk.run("tpu_pod", "create", environment=settings)
    assert made.calls[1][5:8] == ["mine", "--accelerator-type=v4-16", "--runtime-version=tpu-ubuntu2204-base"]


def test_what_is_there_is_not_asked_for_again(there):
    desk = there(["ACTIVE"], [])
    assert verbs(desk.run("tpu_pod", "create", *OPTIONS)) == ["list", "list"]


def test_create_waits_for_the_grant(there):
    desk = there(["", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"], [])
    done = desk.run("tpu_pod", "create", *OPTIONS)
    assert done.status == 0 and verbs(done) == ["list", "create", "list", "list", "list"]
    assert "WAITING_FOR_RESOURCES" in done.err


def test_a_refused_request_is_said(there):
    desk = there(["", "WAITING_FOR_RESOURCES", "FAILED"], [])
    done = desk.run("tpu_pod", "create", *OPTIONS)
    assert done.status == 2 and "not granted" in done.err


def test_up_gives_up_on_a_refused_request(there):
    desk = there(["", "WAITING_FOR_RESOURCES", "FAILED"], [])
    done = desk.run("tpu_pod", "up", *OPTIONS, *RUN)
    assert done.status == 2 and verbs(done) == ["list", "create", "list", "list"]


def test_after_preemption_it_creates_and_runs_again(there):
    running = {"out": "worker w-0 running\nworker w-1 running\n"}
    states = ["", "ACTIVE", "ACTIVE", "SUSPENDING", "SUSPENDED", "ACTIVE"]
    desk = there(states, [running, ended(0)])
    done = desk.run("tpu_pod", "up", *OPTIONS, *RUN)
    assert done.status == 0, done.err
    assert verbs(done) == [
        *FRESH,
        "list",
        "status",
        "list",
        "list",
        "delete",
        "create",
        *FRESH[2:],
        "list",
        "status",
    ]
    delete = next(call for call in done.calls if call[4] == "delete")
    assert delete[5:] == ["accdistill", "--force", "--quiet", "--zone=us-central1-a"]
    assert "taken away" in done.err


def test_a_lost_process_is_started_again_on_the_same_tpus(there):
    desk = there(["", "ACTIVE"], [ended(75), {"out": "worker w-0 none\n"}, ended(0)])
    done = desk.run("tpu_pod", "up", *OPTIONS, *RUN)
    assert done.status == 0, done.err
    assert verbs(done).count("create") == 1 and verbs(done).count("start") == 2
    assert verbs(done).index("end") < len(verbs(done)) - verbs(done)[::-1].index("start")


@pytest.mark.parametrize("status", [1, 2, 130])
def test_what_starting_again_cannot_help_is_left(there, status):
    lines = {"out": f"worker w-0 ended 75\nworker w-1 ended {status}\n"}
    done = there(["", "ACTIVE"], [lines]).run("tpu_pod", "up", *OPTIONS, *RUN)
    assert done.status == status
    assert verbs(done).count("start") == 1


@pytest.mark.slow
@pytest.mark.parametrize("status", [75, 143, 137])
def test_what_starting_again_may_help_is_tried_so_often(there, status):
    done = there(["", "ACTIVE"], [ended(status)]).run("tpu_pod", "up", "--retries=2", *OPTIONS, *RUN)
    assert done.status == 75
    assert verbs(done).count("start") == 3 and "used up" in done.err


def test_a_run_that_was_stopped_is_not_started_again(there):
    done = there(["", "ACTIVE"], [ended(143, word="stopped")]).run("tpu_pod", "up", *OPTIONS, *RUN)
    assert done.status == 143 and verbs(done).count("start") == 1


def test_up_joins_a_run_that_is_under_way(there):
    running = {"out": "worker w-0 running\nworker w-1 running\n"}
    done = there(["ACTIVE"], [running, running, ended(0)]).run("tpu_pod", "up", *OPTIONS, *RUN)
    assert done.status == 0
    assert not {"create", "scp", "install", "start"} & set(verbs(done))


def test_workers_that_hang_after_a_failure_are_ended(there):
    mixed = {"out": "worker w-0 ended 75\nworker w-1 running\n"}
    desk = there(["", "ACTIVE"], [mixed, ended(75), ended(0)])
    done = desk.run("tpu_pod", "up", "--grace=0", *OPTIONS, *RUN)
    assert done.status == 0
    assert "end" in verbs(done) and "ending them" in done.err


def test_tpus_that_cannot_be_reached_are_given_back(there):
    desk = there(["", "ACTIVE"], [*[{"status": 255}] * 10, ended(0)])
    done = desk.run("tpu_pod", "up", *OPTIONS, *RUN)
    assert done.status == 0 and "delete" in verbs(done) and "cannot be reached" in done.err


def test_a_passing_fault_of_ssh_is_tried_again(desk):
    desk.answer("scp", {"status": 255}, {})
    desk.answer("install", {"status": 255}, {"status": 255}, {})
    done = desk.run("tpu_pod", "setup", *OPTIONS)
    assert done.status == 0
    assert verbs(done) == ["true", "scp", "scp", "install", "install", "install"]


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["up", "--accelerator-type=v5litepod-16", *RUN], "--zone"),
        (["up", "--zone=z", *RUN], "--accelerator-type"),
        (["up", "--zone=z", "--accelerator-type=v9-1", *RUN], "--runtime-version"),
        (["up", *OPTIONS, "--", "--config=c", "--workdir=runs/x"], "gs://"),
        (["run", *OPTIONS], "nothing to run"),
        (["create", *OPTIONS, "--name=Bad"], "--name"),
        (["create", *OPTIONS, "--ssh=telnet"], "--ssh"),
        (["create", *OPTIONS, "--slices=0"], "--slices 0"),
        (["dance", *OPTIONS], "unknown command dance"),
    ],
)
def test_wrong_settings_are_one_line(desk, arguments, said):
    shown = desk.run("tpu_pod", *arguments)
    assert shown.status == 2 and not shown.calls
    assert said in shown.err and len(shown.err.splitlines()) == 1


def test_gcloud_knows_every_flag(there):
    """The calls against gcloud's own table of commands and flags, where the SDK is installed."""
    gcloud = shutil.which("gcloud")
    table = Path(gcloud).resolve().parents[1] / "data" / "cli" / "gcloud_completions.py" if gcloud else None
    if table is None or not table.exists():
        pytest.skip("the Google Cloud SDK is not installed")
    names: dict = {}
    exec(table.read_text(), names)
    tree = names["STATIC_COMPLETION_CLI_TREE"]
    desk = there(["", "ACTIVE"], [ended(0)])
    options = [
        "--spot",
        "--valid-until=6h",
        "--service-account=s",
        "--network=n",
        "--subnetwork=s",
        "--internal-ips",
    ]
    up = desk.run("tpu_pod", "up", *OPTIONS, *options, "--ssh=iap", "--project=p", "--delete-when-done", *RUN)
    assert {"list", "create", "ssh", "scp", "delete"} == {call[4] for call in up.calls}
    for call in up.calls:
        node = tree
        for word in call[1:5]:
            node = node["commands"][word]
        flags = {word.partition("=")[0] for word in call[5:] if word.startswith("--")}
        everywhere = {"--project", "--quiet", "--format", "--filter"}
        assert flags - everywhere <= set(node["flags"]), call
