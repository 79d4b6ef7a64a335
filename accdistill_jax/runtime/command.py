"""Runs a command: handles signals, turns failures into exit statuses, and reports lost output."""

import signal
import sys
from collections.abc import Callable

from accdistill_jax.errors import ExitStatus, UserError
from accdistill_jax.runtime import early_stop, streams
from accdistill_jax.runtime.interrupt import Interrupted, Interruption
from accdistill_jax.text import print_error


def run_command(work: Callable[[], int | None], *, when_stopped: str | None = None) -> int:
    """Does the work of a command.

    Args:
        work: returns the exit status, None for `FINISHED`.
        when_stopped: the line to print where a signal stopped it; None for none.

    Returns:
        The exit status: what `work` returned; USER_ERROR for a UserError, told in one line; 128 and the signal's number where one
        stopped it, SIGPIPE's where standard output is what was asked for and its reader has gone.
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
