"""Runs a config: `python -m accdistill_jax.main --config=configs/distill.py[:preset] [--workdir=DIR] [--config.KEY=VALUE]`.

Examples:
  python -m accdistill_jax.main --config=configs/distill.py
  python -m accdistill_jax.main --config=configs/distill.py:smoke --workdir=/tmp/smoke
  python -m accdistill_jax.main --config=configs/distill.py --config.student.train.duration="2000 steps"

The same command again continues an interrupted run, on any number of devices and processes. Several processes: on Cloud
TPU and in SLURM steps they find each other; elsewhere each is given --coordinator=HOST:PORT --num_processes=N
--process_id=K (launch/README.md). Exit status: 0 finished; 2 something the user can put right, told in one line; 75 another
process was lost or hung, start all again; 129 stopped by SIGHUP (the terminal was closed), 130 by Ctrl-C, 143 by SIGTERM or a
notice of maintenance, what is done being kept. A signal that is ignored when the command begins (nohup, a shell's background
jobs) stays ignored. --verbosity=0 shows what the libraries log.
"""

from accdistill_jax.runtime import early_stop  # isort: skip

if __name__ == "__main__":
    early_stop.install()

import importlib.util
import os
import re
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from accdistill_jax.config import validate as configs
from accdistill_jax.errors import ExitStatus, PeersMissing, UserError, without_passwords
from accdistill_jax.runtime import interrupt, streams
from accdistill_jax.runtime.interrupt import Interrupted, Interruption
from accdistill_jax.text import print_error, several_lines
from accdistill_jax.user_paths import expanded

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file with an optional preset, FILE.py[:PRESET]."
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder for everything the run writes. Default: runs/NAME[-PRESET] after the config.",
    short_name="w",
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where the processes of a run meet.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes of the run.", lower_bound=1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this process, from 0.", lower_bound=0)
_DISTRIBUTED = flags.DEFINE_enum(
    "distributed", "auto", ["auto", "off"], "auto: join the other processes of a TPU slice or SLURM step; off: run alone."
)
_OVERRIDE = re.compile(r"--?config\.([^=]*)(=.*)?", re.DOTALL)
_OUTLAST_S = 20.0  # for the others to notice a stop where they are: in a compilation, say
_HELP = ("--help", "-help", "--helpshort", "-h", "-?", "--helpfull")


def main(argv: Sequence[str]) -> int:
    """Validates the config and hands over to `run.run`; returns 0, or ends the process with another exit status."""
    del argv
    peers = None
    try:
        config = _CONFIG.value
        configs.validate(config)
        workdir = _WORKDIR.value or default_workdir(_config_argument(sys.argv))
        early_stop.uninstall()
        with Interruption(at_once=True):
            # after the checks: jax takes seconds to import
            from accdistill_jax.run import run
            from accdistill_jax.runtime import distributed, host_memory
            from accdistill_jax.runtime.maintenance import MaintenanceWatch

            host_memory.keep_freed()
            peers = distributed.start(
                coordinator=_COORDINATOR.value,
                num_processes=_NUM_PROCESSES.value,
                process_id=_PROCESS_ID.value,
                mode=_DISTRIBUTED.value,
                silence_s=config.runtime.peer_timeout_s,
                hang_s=config.runtime.hang_timeout_s,
            )
            peers.set_stop_handler(lambda reason, status: interrupt.request(status - 128))
            with MaintenanceWatch(_on_notice):
                run(config, workdir, peers=peers)
            peers.leave(ExitStatus.FINISHED, "finished")
            peers.close()
            distributed.stop()
    except BaseException as error:
        _end(error, peers)
    return ExitStatus.FINISHED


def _on_notice(notice: str) -> None:
    streams.tell(f"\n{notice}")
    interrupt.request(signal.SIGTERM)


def _end(error: BaseException, peers) -> NoReturn:
    """Says what ended the run, to the user and to the run's other processes, and ends the process with its exit status."""
    several = peers is not None and peers.count > 1
    status, line = _outcome(error, several=several)
    if not several:
        if status is None:
            raise error
        print(several_lines(line), file=sys.stderr)
        _leave(status)
    if status is None or status == ExitStatus.RELAUNCH:
        try:
            peers.explain(error)  # ends this process where the loss of another one is the cause
        except Interrupted as stop:
            status, line = _outcome(stop, several=True)
    if status is None:
        traceback.print_exception(error)
        status = 1
    print(several_lines(line), file=sys.stderr, flush=True)
    peers.leave(status, line.removeprefix("error: "))
    peers.outlast(_OUTLAST_S)
    _leave(status)


def _leave(status: int) -> NoReturn:
    """Ends this process without the libraries' own way out: it waits for processes that do not come, and what a stop left
    computing in the background crashes when the interpreter takes down what it uses."""
    streams.flush()
    os._exit(status)


def _outcome(error: BaseException, *, several: bool) -> tuple[int | None, str]:
    """Exit status, None for what deserves its traceback, and the line that says why."""
    if isinstance(error, Interrupted):
        return 128 + error.signal_number, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT, "stopped by SIGINT"
    if isinstance(error, PeersMissing):
        return ExitStatus.RELAUNCH, f"error: {error}"
    if isinstance(error, UserError):
        return ExitStatus.USER_ERROR, f"error: {error}"
    text = _first_line(error)
    if "RESOURCE_EXHAUSTED" in text:
        return ExitStatus.USER_ERROR, (
            f"error: a device ran out of memory ({text[:200]}); raise train.micro_batches (same result in less memory), lower "
            "batch_size or use more devices. The last checkpoint is kept."
        )
    jax = sys.modules.get("jax")
    if several and jax is not None and isinstance(error, jax.errors.JaxRuntimeError):
        return ExitStatus.RELAUNCH, (
            f"error: the accelerator's runtime failed ({text[:300]}). The last checkpoint is kept: the same command "
            "continues from there."
        )
    return None, f"error: {type(error).__name__}: {text}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def default_workdir(argument: str) -> str:
    """The work directory of a config argument: "configs/distill.py:smoke" -> "runs/distill-smoke"."""
    path, preset = _split(argument)
    return str(Path("runs") / (Path(path).stem + (f"-{preset}" if preset else "")))


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parses the command line; ends the process with one line and status 2 where it is wrong, with 0 after --help.

    Args:
      argv: as in sys.argv.

    Returns:
      What is no flag: the program's name alone.
    """
    if any(argument in _HELP for argument in argv[1:]):
        app.usage(shorthelp=True, writeto_stdout=True, exitcode=0)
    try:
        argv = _with_whole_config_path(argv)
        _check_config(argv)
        rest = flags.FLAGS(argv)
        if rest[1:]:
            raise UserError(f"unexpected argument {rest[1]!r}; settings are given as --config.KEY=VALUE")
        _quieten()
        return rest
    except UserError as error:
        sys.exit(_fail(error))
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        # absl and ml_collections report a wrong flag or value by any of these.
        sys.exit(_fail(_wrong_value(error) or _one_line(error)))


def _quieten() -> None:
    """Leaves the libraries' warnings and errors; --verbosity asks for more. absl would set INFO after this."""
    if flags.FLAGS["verbosity"].using_default_value:
        flags.FLAGS.verbosity = -1
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's own log: errors
        # Orbax logs its failures with pages of traceback and raises them too; storage/checkpoint.py says them in a line.
        handler = logging.get_absl_handler().python_handler
        handler.addFilter(lambda record: f"{os.sep}orbax{os.sep}" not in record.pathname)
        # TensorStore's threads that still write when a save has failed print that its event loop is gone.
        shown, unraisable = sys.excepthook, sys.unraisablehook
        sys.excepthook = lambda kind, value, trace: _is_of_failed_save(value) or shown(kind, value, trace)
        sys.unraisablehook = lambda found: _is_of_failed_save(found.exc_value) or unraisable(found)


def _is_of_failed_save(error: BaseException | None) -> bool:
    return isinstance(error, RuntimeError) and str(error) == "Event loop is closed"


def _config_argument(argv: Sequence[str]) -> str:
    for position, argument in enumerate(argv):
        if argument in ("--config", "-config") and position + 1 < len(argv):
            return argv[position + 1]
        if argument.startswith(("--config=", "-config=")):
            return argument.partition("=")[2]
    raise UserError(
        "no config given; add --config=configs/distill.py (its presets: --config=configs/distill.py:smoke)"
    )


def _with_whole_config_path(argv: Sequence[str]) -> list[str]:
    """The command line with the `~` of --config replaced: ml_collections opens the file as it is given."""
    changed = list(argv)
    for position, word in enumerate(changed):
        for prefix in ("--config=", "-config="):
            if word.startswith(prefix):
                changed[position] = prefix + expanded(word.removeprefix(prefix))
        if word in ("--config", "-config") and position + 1 < len(changed):
            changed[position + 1] = expanded(changed[position + 1])
    return changed


def _split(argument: str) -> tuple[str, str]:
    path, _, preset = argument.partition(":")
    return path, preset


def _check_config(argv: Sequence[str]) -> None:
    """Finds by itself what the flag library would report in many lines: the file, the preset, the keys."""
    argument = _config_argument(argv)
    path = Path(_split(argument)[0])
    if not path.is_file():
        known = sorted(map(str, (path.parent if path.parent.is_dir() else Path("configs")).glob("*.py")))
        near = configs.nearest(str(path), known)
        raise UserError(f"no config file {path}" + (f"; did you mean {near}?" if near else ""))
    known_keys = configs.flatten(_load(argument, path))
    for text in argv[1:]:
        override = _OVERRIDE.fullmatch(text)
        if override and override[1] not in known_keys:
            raise configs.unknown_key(override[1], known_keys)


def _load(argument: str, path: Path) -> Mapping:
    preset = _split(argument)[1]
    try:
        spec = importlib.util.spec_from_file_location("config", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config = module.get_config(preset) if preset else module.get_config()
        if not isinstance(config, ConfigDict):
            raise TypeError(f"get_config must return an ml_collections.ConfigDict, not {type(config).__name__}")
        return config
    except (Exception, SystemExit) as error:
        # A config is Python code of the user's: anything can go wrong in it.
        raise UserError(f"config {argument}: {_one_line(error)}") from error


def _wrong_value(error: Exception) -> str | None:
    found = re.match(r"flag --config\.([^=]+)=(.*?): ", str(error), re.DOTALL)
    rule = configs.find_rule(found[1]) if found else None
    return f"config.{found[1]} = {found[2]!r} must be {rule.wanted}" if rule else None


def _one_line(error: BaseException) -> str:
    lines = [
        line.strip() for line in str(error.args[0] if error.args else error).splitlines() if line.strip()
    ]
    return re.sub(r"^\w+(Error|Exception): ", "", lines[-1]) if lines else type(error).__name__


def _fail(error: object) -> int:
    print_error(without_passwords(str(error)))
    return 2


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
