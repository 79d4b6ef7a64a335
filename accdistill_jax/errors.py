"""The one exception for what a user can put right."""


class UserError(Exception):
    """A problem with input, configuration or environment; entry points print its one line and exit with 2.

    The message names the file, key, record or step at fault and says what to do.
    """
