"""Exceptions that are printed as one line, and the exit statuses of commands."""

import argparse
import enum
import re
from typing import NoReturn

# user:password@ in an address; a password may hold anything but blanks and quotes
_PASSWORD = re.compile(r"""(?<=://)[^\s/'"@:]*:[^\s'"]*@""")


def without_passwords(text: str) -> str:
    """Replaces the user and password of every address in a text by stars."""
    return _PASSWORD.sub("***@", text)


def refuse_password(address: str) -> None:
    """Raises UserError if an address holds a user or password, which would end up in logs, config.json and reports."""
    scheme, separator, rest = address.partition("://")
    if separator and ("@" in rest.partition("/")[0] or without_passwords(address) != address):
        raise UserError(
            f"{scheme}://***@{rest.rpartition('@')[2]}: an address must not hold a user or password; give them in the environment "
            "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS)"
        )


class UserError(Exception):
    """A problem with input, configuration or environment; entry points print its one line and exit with 2.

    The message names the file, key, record or step at fault and says what to do. Passwords in addresses are removed from it.
    """

    def __init__(self, *message: object):
        super().__init__(*(without_passwords(part) if isinstance(part, str) else part for part in message))


class SignalWarning(UserWarning):
    """A signal was embedded, but differs from the signals that encoders are trained on, or some of its minutes have no embedding."""


class PeersMissing(Exception):
    """The processes of a run did not all connect; entry points print its one line and exit with 75: start all again."""


class ExitStatus(enum.IntEnum):
    """Exit status of a process; the launchers in launch/ decide by it whether to start the run again.

    RELAUNCH, HUNG_UP, TERMINATED and a death by a signal mean "start again"; the others do not. A run that a signal stopped ends with
    128 plus the number of the signal.
    """

    FINISHED = 0
    USER_ERROR = 2  # the user must correct something first
    RELAUNCH = 75  # another process was lost or hung; the last checkpoint is kept
    HUNG_UP = 129  # SIGHUP: the terminal was closed; the work so far is saved
    INTERRUPTED = 130  # Ctrl-C; the work so far is saved
    TERMINATED = 143  # SIGTERM or a maintenance notice; the work so far is saved


class CommandParser(argparse.ArgumentParser):
    """Argument parser that removes passwords from its messages."""

    def error(self, message: str) -> NoReturn:
        super().error(without_passwords(message))
