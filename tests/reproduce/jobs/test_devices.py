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
    """has(platform, count, **environment): pretends that the machine has these devices."""

    def has(platform, count, **environment):
        monkeypatch.setattr(devices, "local_devices", lambda: (platform, count))
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    return has


def test_every_gpu_gets_a_worker(has):
    has("gpu", 2)
    assert devices.worker_environments(None) == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]
    assert devices.worker_environments(1) == [{"CUDA_VISIBLE_DEVICES": "0"}]
    shared = devices.worker_environments(3)
    assert [worker["CUDA_VISIBLE_DEVICES"] for worker in shared] == ["0", "1", "0"]
    assert {worker["XLA_PYTHON_CLIENT_PREALLOCATE"] for worker in shared} == {"false"}
    has("gpu", 2, CUDA_VISIBLE_DEVICES="3,GPU-5")  # set by a job scheduler
    assert [worker["CUDA_VISIBLE_DEVICES"] for worker in devices.worker_environments(None)] == ["3", "GPU-5"]


def test_a_cpu_and_a_tpu_get_one_worker(has):
    has("cpu", 1)
    assert devices.worker_environments(None) == [{}]
    has("tpu", 4)
    assert devices.worker_environments(None) == [{}]
    with pytest.raises(UserError, match="--workers 2: the chips of a TPU"):
        devices.worker_environments(2)


def test_workers_on_a_cpu_get_their_own_cores(has, monkeypatch):
    has("cpu", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {7, 1, 2, 3, 5}, raising=False)
    assert [worker[devices.CORES] for worker in devices.worker_environments(2)] == ["1,2,3", "5,7"]
    assert devices.worker_environments(6) == [{}] * 6  # too few cores: all workers use all cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system cannot set CPU affinity")
def test_a_worker_keeps_to_its_cores():
    core = min(os.sched_getaffinity(0))
    program = (
        "import os, sys; from accdistill_jax.reproduce.jobs.devices import keep_to_cores; keep_to_cores(); print(os.sched_getaffinity(0)); "
        "print('numpy' in sys.modules)"  # numpy must be imported later, because it counts the cores
    )
    environment = os.environ | {devices.CORES: str(core)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [f"{{{core}}}", "False"]


def test_the_parent_keeps_to_the_cpu(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    assert devices.keep_to_cpu([{"A": "1"}]) == [{"JAX_PLATFORMS": "cuda", "A": "1"}]
    assert os.environ["JAX_PLATFORMS"] == "cpu"


def test_devices_are_counted_in_another_process(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    answer = types.SimpleNamespace(returncode=0, stdout='a library says hello\n\n["gpu", 8]\n', stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: answer)
    assert device_access.local_devices() == ("gpu", 8)
    answer.returncode, answer.stderr = 1, "Traceback\nRuntimeError: no TPU\n"
    with pytest.raises(UserError, match="JAX cannot use this machine's devices: RuntimeError: no TPU"):
        device_access.local_devices()
