"""Starts a run of several processes: first JAX's distributed runtime, then the control plane between the processes.

On Cloud TPU, in a SLURM step and under Open MPI, JAX detects the processes of the run; elsewhere the command line names them. On
CPU the collectives are gloo's.
"""

import contextlib
import functools
import importlib.metadata
import signal
import threading
from typing import Any

import jax
from jax._src import distributed as runtime  # its key-value store has no public name; orbax uses it likewise

import accdistill_jax
from accdistill_jax.config import record
from accdistill_jax.config.schema import Config
from accdistill_jax.errors import ExitStatus, PeersMissing, UserError
from accdistill_jax.runtime.abort_line import AbortLine
from accdistill_jax.runtime.early_stop import IGNORED, SIGNALS
from accdistill_jax.runtime.peers.peers import Peers, Timeouts
from accdistill_jax.runtime.watchdog import end_process

START_TIMEOUT_S = 300
# Machines may keep a store under different paths; its fingerprint is compared.
_PATH_KEYS = ("data.stores", "data.unseen_stores")
# JAX's runtime ends a process with pages of log when another one is silent; the control plane must notice it first.
_RUNTIME_SILENCE_FACTOR = 10


def start_distributed(
    *,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    mode: str = "auto",
    silence_s: float = 60.0,
    hang_s: float = 600.0,
) -> Peers:
    """Connects this process with the others of the run; call it before anything uses a device.

    Args:
        coordinator: "host:port" of process 0, the same on every process; None: JAX detects the run, else there is one process.
        num_processes: number of processes; required with `coordinator`.
        process_id: number of this process, 0 to num_processes - 1; required with `coordinator`.
        mode: "auto"; "off": one process, and the environment is ignored.
        silence_s: a process that sends nothing for so long is lost, in seconds.
        hang_s: a process waits for the others ten times so long, in seconds, see `Peers.waiting`.

    Returns:
        The processes of the run; `Peers.alone()` for one.

    Raises:
        UserError: the arguments contradict each other.
        PeersMissing: a process did not connect within `START_TIMEOUT_S`.
    """
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if mode == "off" and len(missing) < len(given):
        raise UserError("--distributed=off and --coordinator exclude each other; leave one out")
    if mode == "off":
        return Peers.alone()
    if missing and len(missing) < len(given):
        raise UserError(f"--coordinator, --num_processes and --process_id belong together; missing: --{missing[0]}")
    if coordinator is not None and num_processes is not None and process_id is not None:
        _check(coordinator, num_processes, process_id)
        if num_processes == 1:
            return Peers.alone()
    where = coordinator or "the address that JAX has detected"
    line = (
        f"error: the processes did not come together at {where} within {START_TIMEOUT_S} s; check that all "
        f"{num_processes or ''} are started with the same --coordinator, each with its own --process_id, and that its port is reachable".replace(
            "  ", " "
        )
    )
    # replaces the runtime's own timeout, which aborts with pages of log
    aborts = AbortLine(functools.partial(_second_process, process_id))
    late = threading.Timer(START_TIMEOUT_S, lambda: (aborts.show(), end_process(ExitStatus.RELAUNCH, line)))
    late.daemon = True
    late.start()
    # Python's signal handlers do not run inside the runtime's call, and there is nothing to save yet
    former = {}
    if threading.current_thread() is threading.main_thread():
        former = {
            number: signal.signal(number, signal.SIG_IGN if number in IGNORED else signal.SIG_DFL) for number in SIGNALS
        }
    try:
        # the control plane notices a silent process and names it; the runtime's notice is the fallback
        with contextlib.nullcontext() if missing else aborts:  # a detected cluster never gives a number twice
            jax.distributed.initialize(
                coordinator_address=coordinator,
                num_processes=num_processes,
                process_id=process_id,
                cluster_detection_method=None if missing else "deactivate",
                initialization_timeout=2 * START_TIMEOUT_S,
                heartbeat_timeout_seconds=int(_RUNTIME_SILENCE_FACTOR * silence_s),
            )
    except ValueError as error:
        if missing and "coordinator_address" in str(error):
            return Peers.alone()  # no cluster found: an ordinary machine
        raise UserError(f"cannot start the distributed runtime: {error}") from error
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        raise PeersMissing(f"cannot start the distributed runtime at {where}: {first}") from error
    finally:
        late.cancel()
        for number, handler in former.items():
            signal.signal(number, handler)
    state = runtime.global_state
    if state.num_processes == 1:
        return Peers.alone()
    try:
        return Peers.connect(
            rank=state.process_id,
            count=state.num_processes,
            exchange=_KeyValueStore(state.client),
            host=str(state.coordinator_address).rpartition(":")[0],
            timeouts=Timeouts(silence_s=silence_s, hang_s=hang_s, start_s=START_TIMEOUT_S),
        )
    except UserError as error:  # process 0 was reachable a moment ago
        raise PeersMissing(str(error)) from error


def stop() -> None:
    """Leaves JAX's distributed runtime; waits until all processes do."""
    if runtime.global_state.client is not None:
        jax.distributed.shutdown()


def facts(config: Config) -> dict[str, Any]:
    """Values that must be equal on all processes before a run begins, by the name shown to the user."""
    return {
        **{f"config.{key}": value for key, value in record.flatten_json(config).items() if key not in _PATH_KEYS},
        "version of accdistill_jax": accdistill_jax.__version__,
        "source code": record.source_hash(),
        "version of jax": importlib.metadata.version("jax"),
        "kind of devices": jax.local_devices()[0].device_kind,
        "number of local devices": jax.local_device_count(),
    }


def _second_process(process_id: int | None, said: str) -> tuple[int, str] | None:
    """Exit status and message if the runtime aborted because two processes have the same number; else None."""
    if "ALREADY_EXISTS" not in said or "incarnation" not in said:
        return None
    number = "this one's number" if process_id is None else f"--process_id={process_id}"
    return (
        ExitStatus.USER_ERROR,
        f"error: another process was started with {number}; give each its own and start all again",
    )


def _check(coordinator: str, num_processes: int, process_id: int) -> None:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UserError(f"--coordinator={coordinator} must be HOST:PORT, for example 10.0.0.2:8476")
    if not 0 <= process_id < num_processes:
        raise UserError(
            f"--process_id={process_id} must be between 0 and {num_processes - 1} (--num_processes={num_processes})"
        )


class _KeyValueStore:
    """Adapts the runtime's key-value store to `Exchange`."""

    def __init__(self, client: Any):
        self._client = client

    def set(self, key: str, value: str) -> None:
        self._client.key_value_set(f"accdistill_jax/{key}", value)

    def get(self, key: str, timeout_s: float) -> str:
        return self._client.blocking_key_value_get(f"accdistill_jax/{key}", int(1000 * timeout_s))
