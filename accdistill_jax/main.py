"""Trains a teacher and a student as a config says: data, teacher, student, evaluation, report.

Usage: python -m accdistill_jax.main --config=CONFIG[:PRESET] [--workdir=DIR] [--config.KEY=VALUE ...]

CONFIG is a shipped config (distill, pretrain) or a file (configs/distill.py).

Examples:
  python -m accdistill_jax.main --config=distill
  python -m accdistill_jax.main --config=configs/distill.py:smoke --workdir=/tmp/smoke
  python -m accdistill_jax.main --config=distill --config.student.train.duration="2000 steps"

The same command again continues an interrupted run, on any number of devices and processes. The processes of a run find
each other on Cloud TPU and in SLURM steps; elsewhere, give each one --coordinator=HOST:PORT --num_processes=N
--process_id=K (launch/README.md).

Exit status: 0 finished; 2 the user can fix it, the message says how; 75 another process was lost or hung, start all
processes again; 129 stopped by SIGHUP (the terminal was closed); 130 stopped by Ctrl-C; 143 stopped by SIGTERM or a notice
of maintenance. A stopped run keeps its finished work. A signal that is ignored when the command begins (nohup, a shell's
background jobs) stays ignored. --verbosity=0 shows the logs of the libraries.
"""

from accdistill_jax.runtime import early_stop  # isort: skip

if __name__ == "__main__":
    early_stop.install()

import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from absl import app, flags
from ml_collections import config_flags

from accdistill_jax.config import validate as configs
from accdistill_jax.config.load import (
    check_config,
    config_argument,
    config_file,
    default_workdir,
    last_line,
    wrong_value,
)
from accdistill_jax.errors import ExitStatus, UserError, without_passwords
from accdistill_jax.runtime import interrupt, streams
from accdistill_jax.runtime.ending import end, quieten
from accdistill_jax.runtime.interrupt import Interruption
from accdistill_jax.text import print_error

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config with an optional preset: distill[:PRESET], pretrain[:PRESET] or FILE.py[:PRESET]."
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
    "distributed",
    "auto",
    ["auto", "off"],
    "auto: join the other processes of a TPU slice or SLURM step; off: run alone.",
)
_PROG = "python -m accdistill_jax.main"
_HELP = ("--help", "-help", "--helpshort", "-h", "-?", "--helpfull")


def start(argv: Sequence[str], *, prog: str = _PROG) -> NoReturn:
    """Runs the command line and ends the process.

    Args:
        argv: without the program's name.
        prog: the command's name in its help.
    """
    sys.argv = [prog, *argv]  # the flag library reads the overrides of the config from there
    app.run(main, argv=sys.argv, flags_parser=parse_flags)
    raise AssertionError("app.run returned")


def main(argv: Sequence[str]) -> int:
    """Validates the config and hands over to `run.run`; returns 0, or ends the process with another exit status."""
    del argv
    peers = None
    try:
        config = _CONFIG.value
        configs.validate(config)
        workdir = _WORKDIR.value or default_workdir(config_argument(sys.argv))
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
        end(error, peers)
    return ExitStatus.FINISHED


def _on_notice(notice: str) -> None:
    streams.tell(f"\n{notice}")
    interrupt.request(signal.SIGTERM)


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parses the command line; ends the process with one line and status 2 if it is wrong, with 0 after --help.

    Args:
        argv: as in sys.argv.

    Returns:
        The program's name alone: every other word must be a flag.
    """
    if any(argument in _HELP for argument in argv[1:]):
        module = flags.FLAGS.find_module_defining_flag("workdir")
        print((__doc__ or "").replace(_PROG, argv[0]))
        print(f"flags:\n{flags.FLAGS.module_help(module)}", end="")
        sys.exit(0)
    try:
        check_config(argv)
        rest = flags.FLAGS(_with_config_file(argv))
        if rest[1:]:
            raise UserError(f"unexpected argument {rest[1]!r}; settings are given as --config.KEY=VALUE")
        quieten()
        return rest
    except UserError as error:
        sys.exit(_fail(error))
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        # absl and ml_collections report a wrong flag or value by any of these.
        sys.exit(_fail(wrong_value(error) or last_line(error)))


def _with_config_file(argv: Sequence[str]) -> list[str]:
    """The command line with the argument of --config as "FILE.py[:PRESET]", which ml_collections opens."""

    def whole(argument: str) -> str:
        path, preset = config_file(argument)
        return f"{path}:{preset}" if preset else str(path)

    changed = list(argv)
    for position, word in enumerate(changed):
        for prefix in ("--config=", "-config="):
            if word.startswith(prefix):
                changed[position] = prefix + whole(word.removeprefix(prefix))
        if word in ("--config", "-config") and position + 1 < len(changed):
            changed[position + 1] = whole(changed[position + 1])
    return changed


def _fail(error: object) -> int:
    print_error(without_passwords(str(error)))
    return 2


if __name__ == "__main__":
    start(sys.argv[1:])
