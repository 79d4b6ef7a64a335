"""Runs a command: handles signals, turns failures into exit statuses, and reports lost output."""

import signal
import sys
from collections.abc import Callable

from accdistill_jax.errors import ExitStatus, UserError
from accdistill_jax.runtime import early_stop, streams
from accdistill_jax.runtime.interrupt import Interrupted, Interruption
from accdistill_jax.text import print_error


def run_command(work: Callable[[], int | None], *, when_stopped: str | None = None) -> int:
    """Runs the work of a command.

    Args:
        work: returns the exit status, None for `FINISHED`.
        when_stopped: line to print if a signal stopped the command; None: no line.

    Returns:
        The exit status: the result of `work`; USER_ERROR after a UserError, which is printed as one line; 128 plus the number of the
        signal that stopped the command, or of SIGPIPE if the reader of standard output has gone.
    """
    early_stop.uninstall()
    try:
        with Interruption(at_once=True):
            status = work()
            streams.flush()
            return ExitStatus.FINISHED if status is None else status
    except streams.OutputLost as lost:
        if lost.nobody_reads:
            return 128 + signal.SIGPIPE
        print_error(lost)
    except UserError as error:
        print_error(error)
    except KeyboardInterrupt as stop:
        if when_stopped is not None:
            print(when_stopped, file=sys.stderr)
        return 128 + (stop.signal_number if isinstance(stop, Interrupted) else signal.SIGINT)
    return ExitStatus.USER_ERROR
