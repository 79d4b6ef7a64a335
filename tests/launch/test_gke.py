"""launch/gke: the manifest follows the documentation of Kubernetes and JobSet; --dry-run prints the commands that are run."""

import copy
import re
import shlex

import pytest
import yaml

TPU = ["--image=registry/image:1", "--tpu-type=tpu-v5-lite-podslice", "--topology=4x4"]
GPU = ["--image=registry/image:1", "--gpu-type=nvidia-l4", "--nodes=3", "--gpus-per-node=2"]
RUN = ["--", "--config=configs/distill.py", "--workdir=gs://bucket/run"]

# A name that becomes part of a host name: RFC 1035, as JobSet's webhook demands of the names that it makes of it.
LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
# What JobSet's custom resource definition, jobset.x-k8s.io/v1alpha2, and its webhook say of the fields that the manifest may
# have. "!" marks a required one; a set is a choice of values, a pattern must match all of a text. What is inside of the Job's
# spec, Kubernetes' own schema checks; here are the parts without which these rules would not hold.
# Source: https://github.com/kubernetes-sigs/jobset, config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml and
# pkg/webhooks/jobset_webhook.go at commit 01078527ec43 (restartPolicy: Kubernetes allows a podFailurePolicy with Never only,
# https://kubernetes.io/docs/concepts/workloads/controllers/job/#pod-failure-policy).
JOBSET = {
    "apiVersion!": {"jobset.x-k8s.io/v1alpha2"},
    "kind!": {"JobSet"},
    "metadata!": {
        "name!": LABEL,
        "namespace": LABEL,
        "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": str},
    },
    "spec!": {
        "network": {"enableDNSHostnames": bool, "publishNotReadyAddresses": bool, "subdomain": LABEL},
        "failurePolicy": {
            "maxRestarts": int,
            "restartStrategy": {"Recreate", "BlockingRecreate"},
            "rules": [
                {
                    "name!": re.compile(r"[A-Za-z]([A-Za-z0-9_,:]{0,126}[A-Za-z0-9_])?"),
                    "action!": {"FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"},
                    "onJobFailureReasons": [
                        {
                            "BackoffLimitExceeded",
                            "DeadlineExceeded",
                            "FailedIndexes",
                            "MaxFailedIndexesExceeded",
                            "PodFailurePolicy",
                        }
                    ],
                    "targetReplicatedJobs": [LABEL],
                }
            ],
        },
        "replicatedJobs!": [
            {
                "name!": LABEL,
                "replicas": int,
                "template!": {
                    "metadata": dict,
                    "spec!": {
                        "completionMode": {"Indexed"},
                        "completions!": int,
                        "parallelism!": int,
                        "backoffLimit": int,
                        "podFailurePolicy": dict,
                        "template!": {
                            "metadata": dict,
                            "spec!": {
                                "restartPolicy!": {"Never"},
                                "containers!": [dict],
                                "serviceAccountName": str,
                                "terminationGracePeriodSeconds": int,
                                "nodeSelector": dict,
                                "tolerations": [dict],
                                "volumes": [dict],
                            },
                        },
                    },
                },
            }
        ],
        "ttlSecondsAfterFinished": int,
    },
}


def check(value, schema, path="jobset"):
    """Raises where a field is unknown, missing or has a wrong value."""
    if isinstance(schema, dict):
        assert isinstance(value, dict), path
        known = {key.rstrip("!"): inner for key, inner in schema.items()}
        for key in schema:
            assert not key.endswith("!") or key[:-1] in value, f"{path}.{key[:-1]} is missing"
        for key, inner in value.items():
            assert key in known, f"{path}.{key} is no field"
            check(inner, known[key], f"{path}.{key}")
    elif isinstance(schema, list):
        assert isinstance(value, list) and value, path
        for inner in value:
            check(inner, schema[0], f"{path}[]")
    elif isinstance(schema, set):
        assert value in schema, f"{path} = {value}"
    elif isinstance(schema, re.Pattern):
        assert isinstance(value, str) and schema.fullmatch(value), f"{path} = {value!r}"
    else:
        assert type(value) is schema, f"{path} = {value!r}"


def check_names(manifest):
    """Raises if a host name made by JobSet is not a label of at most 63 characters, or if two rules have one name."""
    name, spec = manifest["metadata"]["name"], manifest["spec"]
    for job in spec["replicatedJobs"]:
        last = f"{name}-{job['name']}-{job['replicas'] - 1}-{job['template']['spec']['completions'] - 1}-abcde"
        assert LABEL.fullmatch(last) and len(last) <= 63, last
    rules = [rule["name"] for rule in spec["failurePolicy"]["rules"]]
    assert len(set(rules)) == len(rules)


def rendered(desk, *options, run=RUN):
    shown = desk.run("gke", "apply", *options, "--dry-run", *run)
    assert shown.status == 0, shown.err
    assert not shown.calls
    return yaml.safe_load(shown.out)


def pod(manifest):
    return manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("options", [TPU, [*TPU, "--spot", "--slices=2"], GPU, [*GPU, "--spot", "--nodes=1"]])
def test_manifest_has_documented_fields_only(desk, options):
    manifest = rendered(desk, *options)
    check(manifest, JOBSET)
    check_names(manifest)
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed").validate
    job = manifest["spec"]["replicatedJobs"][0]["template"]
    validate({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, **job}, "1.30", strict=True)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda jobset: jobset["spec"]["failurePolicy"].update(maxRestart=1), "maxRestart is no field"),
        (lambda jobset: jobset["spec"]["failurePolicy"].update(maxRestarts="20"), "maxRestarts = '20'"),
        (lambda jobset: jobset["spec"]["failurePolicy"]["rules"][0].pop("action"), r"rules\[\].action is missing"),
        (
            lambda jobset: jobset["spec"]["failurePolicy"]["rules"][0].update(name="not-by-restart"),
            "rules.*name = 'not-by-restart'",
        ),
        (lambda jobset: jobset["metadata"].pop("name"), "metadata.name is missing"),
        (lambda jobset: jobset["metadata"].update(name="Mine"), "name = 'Mine'"),
        (lambda jobset: jobset["spec"].pop("replicatedJobs"), "replicatedJobs is missing"),
        (lambda jobset: jobset["spec"]["replicatedJobs"][0].pop("template"), "template is missing"),
        (lambda jobset: pod(jobset).update(restartPolicy="OnFailure"), "restartPolicy = OnFailure"),
        (lambda jobset: pod(jobset).pop("restartPolicy"), "restartPolicy is missing"),
        (lambda jobset: pod(jobset).pop("containers"), "containers is missing"),
    ],
)
def test_the_checker_itself_finds_what_is_wrong(desk, change, message):
    manifest = copy.deepcopy(rendered(desk, *TPU))
    change(manifest)
    with pytest.raises(AssertionError, match=message):
        check(manifest, JOBSET)


def test_the_longest_names_are_host_names_still(desk):
    long = "a" * 40
    manifest = rendered(desk, *TPU, f"--name={long}", "--slices=100")
    check_names(manifest)
    refused = desk.run("gke", "apply", *TPU, f"--name={long}a", *RUN)
    assert refused.status == 2 and "41 characters" in refused.err


def test_a_tpu_slice_has_a_process_per_host_and_no_flags(desk):
    manifest = rendered(desk, *TPU, "--slices=2")
    job = manifest["spec"]["replicatedJobs"][0]
    assert job["replicas"] == 2
    assert job["template"]["spec"]["completions"] == job["template"]["spec"]["parallelism"] == 4  # 16 chips, 4 each
    assert job["template"]["spec"]["completionMode"] == "Indexed"
    container = pod(manifest)["containers"][0]
    assert container["args"] == RUN[1:]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert pod(manifest)["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
    }


def test_gpu_nodes_meet_at_the_first_pod(desk):
    manifest = rendered(desk, *GPU, "--name=mine")
    container = pod(manifest)["containers"][0]
    assert container["args"] == [
        *RUN[1:],
        # <jobset>-<replicated job>-<job index>-<pod index>.<subdomain>, the subdomain being the JobSet's name
        "--coordinator=mine-slice-0-0.mine:8476",
        "--num_processes=3",
        "--process_id=$(JOB_COMPLETION_INDEX)",
    ]
    assert manifest["spec"]["replicatedJobs"][0]["name"] == "slice"
    assert manifest["spec"]["network"]["enableDNSHostnames"] is True
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 2}


def test_one_gpu_node_needs_no_coordinator(desk):
    assert pod(rendered(desk, *GPU, "--nodes=1"))["containers"][0]["args"] == RUN[1:]


def test_what_the_user_must_put_right_is_not_started_again(desk):
    spec = rendered(desk, *TPU, "--max-restarts=7")["spec"]
    job = spec["replicatedJobs"][0]["template"]["spec"]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob" and rule["onExitCodes"] == {
        "containerName": pod({"spec": spec})["containers"][0]["name"],
        "operator": "In",
        "values": [1, 2, 130],
    }
    assert (
        job["backoffLimit"] == 0
    )  # any other failure, 75, 143, 137 or a lost node, fails the job and restarts the set
    (policy,) = spec["failurePolicy"]["rules"]
    assert policy["action"] == "FailJobSet" and policy["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert spec["failurePolicy"]["maxRestarts"] == 7


def test_spot_nodes_are_tolerated_only_when_asked(desk):
    assert "tolerations" not in pod(rendered(desk, *TPU))
    spec = pod(rendered(desk, *TPU, "--spot"))
    assert spec["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert spec["tolerations"] == [
        {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
    ]


def test_arguments_arrive_as_they_are(desk):
    odd = [
        "--config.a=it's",
        "--config.b=x: {y}",
        "--config.c=#no",
        "--config.d=(1, 'two')",
        '--config.e="q"',
    ]
    args = pod(rendered(desk, *TPU, run=[*RUN, *odd, "--config.f=$(HOME)"]))["containers"][0]["args"]
    assert args[2:-1] == odd
    assert args[-1] == "--config.f=$$(HOME)"  # $$ is Kubernetes' escape: it arrives as $(HOME)


def test_apply_makes_the_call_and_sends_the_manifest_that_dry_run_prints(desk):
    printed = desk.run("gke", "apply", *TPU, "--dry-run", *RUN)
    applied = desk.run("gke", "apply", *TPU, *RUN)
    assert applied.status == 0
    assert applied.calls == [["kubectl", "--namespace=default", "apply", "-f", "-"]]
    (call,) = applied.calls
    assert printed.out == f"# {shlex.join(call)}\n{applied.stdins[0]}"


@pytest.mark.parametrize("command", [["status"], ["logs"], ["logs", "-f", "--slice=1", "--worker=2"], ["delete"]])
def test_dry_run_prints_the_calls(desk, command):
    printed = desk.run("gke", *command, "--dry-run", "--name=mine")
    made = desk.run("gke", *command, "--name=mine")
    assert printed.calls == [] and made.calls
    assert [shlex.split(line) for line in printed.out.splitlines()] == made.calls


def test_failure_of_kubectl_is_passed_on(desk):
    desk.answer("apply", {"status": 1})
    assert desk.run("gke", "apply", *TPU, *RUN).status == 1


@pytest.mark.parametrize(
    "options, said",
    [
        (["--tpu-type=t", "--topology=4x4", *RUN], "--image"),
        (["--image=i", *RUN], "--tpu-type"),
        (["--image=i", "--tpu-type=t", "--topology=4by4", *RUN], "4by4"),
        (["--image=i", "--tpu-type=t", "--topology=3x3", *RUN], "9 chips"),
        (["--image=i", "--gpu-type=g", "--nodes=two", *RUN], "two"),
        (["--image=i\n  evil: 1", "--gpu-type=g", *RUN], "--image"),
        (["--image=i", "--gpu-type=g", "--", "--config=c", "--workdir=runs/x"], "gs://"),
        (["--image=i", "--gpu-type=g"], "nothing to run"),
        (["--image=i", "--gpu-type=g", "--name=mine-", *RUN], "no - at the end"),
    ],
)
def test_wrong_settings_are_one_line(desk, options, said):
    shown = desk.run("gke", "apply", *options)
    assert shown.status == 2 and not shown.calls
    assert said in shown.err and shown.err.count("error:") == 1
