"""Decides how many workers to start, and the environment of each."""

import os

from accdistill_jax.errors import UserError
from accdistill_jax.runtime.device_access import local_devices

CORES = "ACCDISTILL_WORKER_CORES"  # numbers of cores, separated by commas


def worker_environments(workers: int | None) -> list[dict[str, str]]:
    """Environment variables of each worker process.

    Each GPU gets one worker, or several if more are requested. A CPU gets one worker by default. The chips of a TPU work
    together on one run, so a TPU has exactly one. Several workers on a CPU get separate cores (`CORES`) if there are enough
    cores: a second run uses a core better than the first run uses a second core.

    Args:
        workers: number of workers; None for the default.

    Raises:
        UserError: the devices cannot be used, or not by that many workers.
    """
    platform, count = local_devices()
    if platform == "gpu":
        named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        names = named or [str(number) for number in range(count)]
        workers = workers or len(names)
        shared = {} if workers <= len(names) else {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        return [{"CUDA_VISIBLE_DEVICES": names[k % len(names)]} | shared for k in range(workers)]
    if platform == "tpu" and (workers or 1) > 1:
        raise UserError(f"--workers {workers}: the chips of a TPU work together on one run; leave --workers out")
    return [{CORES: ",".join(map(str, cores))} if cores else {} for cores in _cores_by_worker(workers or 1)]


def keep_to_cores() -> None:
    """Restricts this worker process to its cores, if it has any assigned.

    Call it before numpy, scipy and JAX are imported: they count the cores and start threads for them. Therefore this module
    imports none of them.
    """
    if given := os.environ.get(CORES):
        os.sched_setaffinity(0, set(map(int, given.split(","))))


def _cores_by_worker(workers: int) -> list[list[int]]:
    """Divides the cores among workers; [] for each if there is one worker or too few cores."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if workers == 1 or len(cores) < workers:
        return [[]] * workers
    share, rest = divmod(len(cores), workers)  # the first workers get one more
    starts = [k * share + min(k, rest) for k in range(workers + 1)]
    return [cores[a:b] for a, b in zip(starts, starts[1:], strict=False)]


def keep_to_cpu(environments: list[dict[str, str]]) -> list[dict[str, str]]:
    """Keeps this process off the accelerator, whose memory the workers need; workers keep the platform of this process."""
    former = os.environ.get("JAX_PLATFORMS", "")
    os.environ["JAX_PLATFORMS"] = "cpu"
    return [{"JAX_PLATFORMS": former} | environment for environment in environments]
