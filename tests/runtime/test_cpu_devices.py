"""A run's number of CPU devices: a device per core for large models, and what a work directory began with."""

import json
import os

import pytest

from accdistill_jax.config.convert import changed
from accdistill_jax.config.load import load_config
from accdistill_jax.runtime import cpu_devices

SMALL, LARGE = "distill:default", "distill:paper"


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """Two cores, no accelerator, and nothing set by the user; what a test sets is removed afterwards."""
    for name in ("XLA_FLAGS", cpu_devices.VARIABLE, "SLURM_JOB_ID", "OMPI_MCA_orte_hnp_uri", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr(cpu_devices, "available_cores", lambda: 2)
    return monkeypatch


def use(workdir, config, **changes):
    """The number of devices that is set, after a check that JAX would read the same number."""
    devices = cpu_devices.use_cores(changed(load_config(config), changes), workdir)
    assert os.environ.get(cpu_devices.VARIABLE) == (None if devices is None else str(devices))
    return devices


@pytest.mark.parametrize(
    ("config", "changes", "devices"),
    [
        (LARGE, {}, 2),
        ("distill:paper-literal", {}, 2),
        (SMALL, {}, None),
        (LARGE, {"student.encoder.transformer.width": 64}, None),
        (LARGE, {"teacher.encoder.architecture": "efficientnet"}, None),
        (LARGE, {"student.train.batch_size": 33}, None),
        (LARGE, {"teacher.train.batch_size": 34, "teacher.train.micro_batches": 2}, None),
        (LARGE, {"stages": ("evaluation", "report")}, None),
        (LARGE, {"teacher.path": "elsewhere", "teacher.encoder.transformer.width": 64}, 2),
        (LARGE, {"stages": ("student",), "teacher.encoder.transformer.width": 64}, 2),
    ],
)
def test_a_new_run_of_large_models_has_a_device_per_core(tmp_path, config, changes, devices):
    assert use(tmp_path / "run", config, **changes) == devices


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        (cpu_devices.VARIABLE, "1"),
        ("XLA_FLAGS", "--xla_force_host_platform_device_count=4"),
        ("SLURM_JOB_ID", "1"),
        ("JAX_PLATFORMS", "cuda"),
    ],
)
def test_what_the_user_or_a_cluster_sets_stays(tmp_path, machine, variable, value):
    machine.setenv(variable, value)
    assert cpu_devices.use_cores(load_config(LARGE), tmp_path) is None and os.environ[variable] == value
    assert variable == cpu_devices.VARIABLE or cpu_devices.VARIABLE not in os.environ


@pytest.mark.parametrize("cores", [1, cpu_devices.MOST_DEVICES + 1])
def test_a_single_core_and_very_many_are_one_device(tmp_path, machine, cores):
    machine.setattr(cpu_devices, "available_cores", lambda: cores)
    assert use(tmp_path, LARGE) is None


def test_a_work_directory_at_an_address_has_one_device():
    assert use("gs://bucket/run", LARGE) is None


@pytest.mark.parametrize(
    ("environment", "devices"),
    [
        ({"device_kind": "cpu", "device_count": 1, "process_count": 1}, None),
        ({"device_kind": "cpu", "device_count": 2, "process_count": 1}, 2),
        ({"device_kind": "cpu", "device_count": 4, "process_count": 1}, 4),
        ({"device_kind": "cpu", "device_count": 2, "process_count": 2}, None),
        ({"device_kind": "TPU v5e", "device_count": 4, "process_count": 1}, None),
        ({"device_kind": "cpu", "device_count": 3, "process_count": 1}, None),  # divides no batch any more
        ({}, None),
    ],
)
@pytest.mark.parametrize("config", [SMALL, LARGE])
def test_a_run_goes_on_with_the_devices_that_it_began_with(tmp_path, config, environment, devices):
    (tmp_path / "config.json").write_text(json.dumps({"config": {}, "environment": environment}))
    assert use(tmp_path, config) == devices


def test_a_damaged_record_is_left_to_the_run(tmp_path):
    (tmp_path / "config.json").write_text("{")
    assert use(tmp_path, LARGE) is None
