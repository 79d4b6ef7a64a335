"""What an entry point ends with: exceptions that are told in one line, and the exit statuses."""

import enum


class UserError(Exception):
    """A problem with input, configuration or environment; entry points print its one line and exit with 2.

    The message names the file, key, record or step at fault and says what to do.
    """


class PeersMissing(Exception):
    """Processes of the run did not come together; entry points print its one line and exit with 75: start all again."""


class ExitStatus(enum.IntEnum):
    """How a process ended; the launchers in launch/ decide by it whether to start the run again.

    RELAUNCH, TERMINATED and a death by a signal mean "start again"; the others do not.
    """

    FINISHED = 0
    USER_ERROR = 2  # something to put right first
    RELAUNCH = 75  # another process was lost or hung; the last checkpoint is kept
    INTERRUPTED = 130  # Ctrl-C; what was done is saved
    TERMINATED = 143  # SIGTERM or a maintenance notice; what was done is saved
