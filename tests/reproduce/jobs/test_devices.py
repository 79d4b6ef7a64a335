"""Workers for this machine's devices."""

import os
import subprocess
import sys
import types

import pytest

from accdistill_jax.errors import UserError
from accdistill_jax.reproduce.jobs import devices
from accdistill_jax.runtime import device_access


@pytest.fixture
def has(monkeypatch):
    """has(platform, count): what the machine is taken to have."""

    def has(platform, count, **environment):
        monkeypatch.setattr(devices, "local_devices", lambda: (platform, count))
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    return has


def test_every_gpu_has_a_worker(has):
    has("gpu", 2)
    assert devices.worker_environments(None) == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]
    assert devices.worker_environments(1) == [{"CUDA_VISIBLE_DEVICES": "0"}]
    shared = devices.worker_environments(3)
    assert [one["CUDA_VISIBLE_DEVICES"] for one in shared] == ["0", "1", "0"]
    assert {one["XLA_PYTHON_CLIENT_PREALLOCATE"] for one in shared} == {"false"}
    has("gpu", 2, CUDA_VISIBLE_DEVICES="3,GPU-5")  # a scheduler gave these
    assert [one["CUDA_VISIBLE_DEVICES"] for one in devices.worker_environments(None)] == ["3", "GPU-5"]


def test_a_cpu_has_one_unless_more_are_asked_for_and_a_tpu_one(has):
    has("cpu", 1)
    assert devices.worker_environments(None) == [{}]
    has("tpu", 4)
    assert devices.worker_environments(None) == [{}]
    with pytest.raises(UserError, match="--workers 2: the chips of a TPU"):
        devices.worker_environments(2)


def test_several_workers_on_a_cpu_share_out_its_cores(has, monkeypatch):
    has("cpu", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {7, 1, 2, 3, 5}, raising=False)
    assert [one[devices.CORES] for one in devices.worker_environments(2)] == ["1,2,3", "5,7"]
    assert devices.worker_environments(6) == [{}] * 6  # of too few cores none is anyone's own


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system shares out no cores")
def test_a_worker_keeps_to_its_cores():
    core = min(os.sched_getaffinity(0))
    program = (
        "import os, sys; from accdistill_jax.reproduce.jobs.devices import keep_to_cores; keep_to_cores(); print(os.sched_getaffinity(0)); "
        "print('numpy' in sys.modules)"  # it would have counted all cores
    )
    own = os.environ | {devices.CORES: str(core)}
    said = subprocess.run([sys.executable, "-c", program], env=own, capture_output=True, text=True, check=True)
    assert said.stdout.split() == [f"{{{core}}}", "False"]


def test_the_parent_keeps_to_the_cpu(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    assert devices.keep_to_cpu([{"A": "1"}]) == [{"JAX_PLATFORMS": "cuda", "A": "1"}]
    assert os.environ["JAX_PLATFORMS"] == "cpu"


def test_devices_are_asked_for_in_another_process(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    answer = types.SimpleNamespace(returncode=0, stdout='a library says hello\n\n["gpu", 8]\n', stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: answer)
    assert device_access.local_devices() == ("gpu", 8)
    answer.returncode, answer.stderr = 1, "Traceback\nRuntimeError: no TPU\n"
    with pytest.raises(UserError, match="JAX cannot use this machine's devices: RuntimeError: no TPU"):
        device_access.local_devices()
