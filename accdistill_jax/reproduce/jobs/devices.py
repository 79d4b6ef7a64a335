"""The worker processes that this machine's devices are worth, and what each is told of them."""

import os

from accdistill_jax.errors import UserError
from accdistill_jax.runtime.device_access import local_devices

CORES = "ACCDISTILL_WORKER_CORES"  # numbers with commas


def worker_environments(workers: int | None) -> list[dict[str, str]]:
    """Variables of each worker process.

    Every GPU has a worker of its own, or several where more are asked for. On a CPU, and on a TPU, whose chips work together
    on one run, there is one unless more are asked for; several on a CPU get cores of their own (`CORES`), as long as there
    are as many: a run gains less from a second core than a second run does.

    Args:
        workers: how many; None for what fits.

    Raises:
        UserError: the devices cannot be used, or not by so many.
    """
    platform, count = local_devices()
    if platform == "gpu":
        named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        names = named or [str(number) for number in range(count)]
        workers = workers or len(names)
        shared = {} if workers <= len(names) else {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        return [{"CUDA_VISIBLE_DEVICES": names[k % len(names)]} | shared for k in range(workers)]
    if platform == "tpu" and (workers or 1) > 1:
        raise UserError(f"--workers {workers}: the chips of a TPU work together on one run; leave it out")
    return [{CORES: ",".join(map(str, own))} if own else {} for own in _shared_out(workers or 1)]


def keep_to_cores() -> None:
    """Lets this process, a worker that was given some cores, run on no others.

    To be called before numpy, scipy and JAX are imported, which count the cores and start threads for them; hence no such
    import here.
    """
    if given := os.environ.get(CORES):
        os.sched_setaffinity(0, set(map(int, given.split(","))))


def _shared_out(workers: int) -> list[list[int]]:
    """The cores of each of so many workers, none where one has them all or there are not enough."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if workers == 1 or len(cores) < workers:
        return [[]] * workers
    share, rest = divmod(len(cores), workers)  # the first ones get one more
    starts = [k * share + min(k, rest) for k in range(workers + 1)]
    return [cores[a:b] for a, b in zip(starts, starts[1:], strict=False)]


def keep_to_cpu(environments: list[dict[str, str]]) -> list[dict[str, str]]:
    """Lets this process use no accelerator, whose memory it would take from the workers; they use what it would have used."""
    former = os.environ.get("JAX_PLATFORMS", "")
    os.environ["JAX_PLATFORMS"] = "cpu"
    return [{"JAX_PLATFORMS": former} | environment for environment in environments]
