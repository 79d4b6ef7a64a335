"""Trains a teacher and a student as a config says: data, teacher, student, evaluation, report.

Usage: python -m accdistill_jax.main --config=CONFIG[:PRESET] [--workdir=DIR] [--config.KEY=VALUE ...]

CONFIG is a shipped config (distill, pretrain, shipped, reproduce) or a file (configs/distill.py). configs/README.md lists
the presets; accdistill config prints the keys.

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

from accdistill_jax.config.load import default_workdir, last_line, load_for_training, split_overrides
from accdistill_jax.errors import ExitStatus, UserError, without_passwords
from accdistill_jax.runtime import cpu_devices, interrupt, streams
from accdistill_jax.runtime.ending import end, quieten
from accdistill_jax.runtime.interrupt import Interruption
from accdistill_jax.text import print_error

_CONFIG = flags.DEFINE_string(
    "config",
    None,
    "Config with an optional preset: distill[:PRESET], pretrain[:PRESET] or FILE.py[:PRESET]; "
    "--config.KEY=VALUE changes a key.",
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder for everything the run writes. Default: runs/NAME[-PRESET], with the name and preset of the config.",
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
    app.run(main, argv=[prog, *argv], flags_parser=parse_flags)
    raise AssertionError("app.run returned")


def main(argv: Sequence[str]) -> int:
    """Loads the config and hands over to `run.run`; returns 0, or ends the process with another exit status.

    Args:
        argv: as from `parse_flags`.
    """
    peers = None
    try:
        if not _CONFIG.value:
            raise UserError("no config given; add --config=distill (a preset of it: --config=distill:smoke)")
        config = load_for_training(_CONFIG.value, argv[1:])
        workdir = _WORKDIR.value or default_workdir(_CONFIG.value)
        early_stop.uninstall()
        with Interruption(at_once=True):
            if _COORDINATOR.value is None and (devices := cpu_devices.use_cores(config, workdir)):
                print(
                    f"{devices} CPU devices, each with its part of the batch: faster for models of this size, and equal to rounding "
                    f"({cpu_devices.VARIABLE}=1 keeps all cores in one device)",
                    flush=True,
                )
            # after the checks: jax takes seconds to import
            from accdistill_jax.run import run
            from accdistill_jax.runtime import distributed, host_memory
            from accdistill_jax.runtime.maintenance import MaintenanceWatch

            host_memory.keep_freed()
            peers = distributed.start_distributed(
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
        The program's name and the overrides of the config, "--config.KEY=VALUE" each.
    """
    if any(argument in _HELP for argument in argv[1:]):
        module = flags.FLAGS.find_module_defining_flag("workdir")
        print((__doc__ or "").replace(_PROG, argv[0]))
        print(f"flags:\n{flags.FLAGS.module_help(module)}", end="")
        sys.exit(0)
    try:
        others, overrides = split_overrides(flags.FLAGS.read_flags_from_files(list(argv)))
        rest = flags.FLAGS(others)
        if rest[1:]:
            raise UserError(f"unexpected argument {rest[1]!r}; settings are given as --config.KEY=VALUE")
        quieten()
        return rest + overrides
    except UserError as error:
        sys.exit(_fail(error))
    except flags.Error as error:
        sys.exit(_fail(last_line(error)))


def _fail(error: object) -> int:
    print_error(without_passwords(str(error)))
    return 2


if __name__ == "__main__":
    start(sys.argv[1:])
