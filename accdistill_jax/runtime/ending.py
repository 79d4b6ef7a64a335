"""Ends a process: its last line, its exit status, and the log output of libraries at exit."""

import os
import signal
import sys
import traceback
from typing import NoReturn

from absl import flags, logging

from accdistill_jax.errors import ExitStatus, PeersMissing, UserError
from accdistill_jax.runtime import streams
from accdistill_jax.runtime.interrupt import Interrupted
from accdistill_jax.text import several_lines

_OUTLAST_S = 20.0  # for the others to notice a stop, during a compilation for example


def end(error: BaseException, peers) -> NoReturn:
    """Reports the error that ended the run to the user and to the other processes, then exits with its status."""
    several = peers is not None and peers.count > 1
    status, line = _outcome(error, several=several)
    if not several:
        if status is None:
            raise error
        print(several_lines(line), file=sys.stderr)
        _leave(status)
    if status is None or status == ExitStatus.RELAUNCH:
        try:
            peers.explain(error)  # ends this process if the loss of another one is the cause
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
    """Ends this process without the exit handlers of libraries.

    Those wait for processes that are gone, and computations that a stop left in the background crash during the interpreter's
    finalisation.
    """
    streams.flush()
    os._exit(status)


def _outcome(error: BaseException, *, several: bool) -> tuple[int | None, str]:
    """Exit status (None: show the traceback) and the line that gives the reason."""
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


def quieten() -> None:
    """Silences all library logs but errors, unless --verbosity is given; absl would set INFO after this."""
    if flags.FLAGS["verbosity"].using_default_value:
        flags.FLAGS.verbosity = -1
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's own log: errors
        # Orbax logs its failures with tracebacks and raises them too; storage/checkpoint.py reports them in one line.
        handler = logging.get_absl_handler().python_handler
        handler.addFilter(lambda record: f"{os.sep}orbax{os.sep}" not in record.pathname)
        # After a failed save, TensorStore threads that still write report a closed event loop.
        shown, unraisable = sys.excepthook, sys.unraisablehook
        sys.excepthook = lambda kind, value, trace: _is_of_failed_save(value) or shown(kind, value, trace)
        sys.unraisablehook = lambda raised: _is_of_failed_save(raised.exc_value) or unraisable(raised)


def _is_of_failed_save(error: BaseException | None) -> bool:
    return isinstance(error, RuntimeError) and str(error) == "Event loop is closed"
