"""Chooses the number of CPU devices of a run, before JAX starts.

With one device, XLA splits every operation between the cores, which wait for each other after each. With a device per core, each
core computes its part of the batch, and the cores meet only to exchange embeddings and gradients. Large models gain, small ones do
not (benchmark/README.md). The numbers are equal to rounding, not to the bit: a work directory keeps the number that it began with.
"""

import json
import os
from pathlib import Path
from typing import Any

from accdistill_jax.config.registry import ENCODERS
from accdistill_jax.config.schema import Config
from accdistill_jax.files import is_address
from accdistill_jax.runtime.host_memory import computes_on_cpu
from accdistill_jax.user_paths import expanded

VARIABLE = "JAX_NUM_CPU_DEVICES"
_FLAG = "xla_force_host_platform_device_count"
# Variables from which JAX detects that other processes belong to the run.
_CLUSTERS = ("SLURM_JOB_ID", "OMPI_MCA_orte_hnp_uri", "KUBERNETES_SERVICE_HOST")
MOST_DEVICES = 8  # every device has a copy of parameters and optimiser state


def use_cores(config: Config, workdir: str | os.PathLike[str]) -> int | None:
    """Sets the number of CPU devices that a run of a single process begins or continues with; call it before JAX is imported.

    A new run gets a device per core if all encoders that it trains gain from it and the cores divide the batches. A run that exists
    continues with the number that it has recorded. A number that the user has set stays. So does a single device where the work
    directory is at an address, or where JAX may find other processes.

    Returns:
        The number that was set; None if it was left as it is.
    """
    if set_by_user() or not computes_on_cpu() or is_address(os.fspath(workdir)):
        return None
    if any(name in os.environ for name in _CLUSTERS):
        return None
    record = Path(expanded(workdir)) / "config.json"
    devices = _recorded(record) if record.exists() else cores_to_use(config)
    if devices < 2 or not _divides(config, devices):
        return None
    os.environ[VARIABLE] = str(devices)
    return devices


def set_by_user() -> bool:
    """True if the user has set JAX's number of CPU devices."""
    return VARIABLE in os.environ or _FLAG in os.environ.get("XLA_FLAGS", "")


def available_cores() -> int:
    """Number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores_to_use(config: Config) -> int:
    """Number of cores if a new run should have a device for each, else 1."""
    cores = available_cores()
    trained = [name for name in _stages(config) if name != "teacher" or not config.teacher.path]
    gains = bool(trained) and all(_gains(config.stage(name).encoder) for name in trained)
    return cores if gains and cores <= MOST_DEVICES and _divides(config, cores) else 1


def _stages(config: Config) -> list[str]:
    return [name for name in ("teacher", "student") if name in config.stages]


def _gains(encoder: Any) -> bool:
    """True if the encoder's registration says that a step with these options is faster with a device per core."""
    gains = ENCODERS.entry(encoder.architecture).item.gains_from_core_devices
    return gains is not None and gains(encoder.chosen)


def _divides(config: Config, devices: int) -> bool:
    trains = [config.stage(name).train for name in _stages(config)]
    return not any(train.batch_size % (devices * train.micro_batches) for train in trains)


def _recorded(path: Path) -> int:
    """The number of devices in a run's record if it ran as one process on a CPU, else 1."""
    try:
        environment = json.loads(path.read_text())["environment"]
        if environment["device_kind"] == "cpu" and environment["process_count"] == 1:
            return int(environment["device_count"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # the run itself refuses a damaged record, with a line that names it
    return 1
