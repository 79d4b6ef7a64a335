"""Paths that users give, and the per-user cache folder."""

import os
import re
from pathlib import Path

from accdistill_jax.errors import UserError

_ONE_SLASH = re.compile(r"(gs|s3|https?):/([^/].*)", re.DOTALL)


def expanded(path: str | os.PathLike) -> str:
    """A path with a leading `~` or `~user` expanded and a leading `file://` removed; other addresses stay as they are.

    A shell does not expand the `~` of `--workdir=~/runs`, because an equals sign comes before it.

    Raises:
        UserError: there is no such user, no home folder, or an address with a single slash, which `pathlib.Path` makes of two.
    """
    text = os.fspath(path).removeprefix("file://")
    address = _ONE_SLASH.fullmatch(text)
    if address and not os.path.lexists(f"{address[1]}:"):
        why = "pathlib.Path keeps one of them; give the address as a str" if not isinstance(path, str) else "give both"
        raise UserError(f"{text}: an address has two slashes, {address[1]}://{address[2]}: {why}")
    if not text.startswith("~"):
        return text
    full = os.path.expanduser(text)
    if not full.startswith("~"):
        return full
    user = text[1:].split("/")[0]
    why = f"there is no user {user} on this machine" if user else _NO_HOME
    raise UserError(f"{text}: {why}; give the whole path, or ./{text} for a file whose name begins with ~")


def path_argument(text: str) -> Path:
    """A command's path argument, expanded; for the `type` of an argparse argument."""
    return Path(expanded(text))


_NO_HOME = "there is no home folder here (HOME is not set, and the system has no entry for this user)"


def cache_folder() -> Path:
    """The per-user cache folder, made if missing.

    It is `$XDG_CACHE_HOME/accdistill_jax`, or `~/.cache/accdistill_jax` if that variable is not an absolute path.

    Raises:
        UserError: there is no home folder, or the folder cannot be written.
    """
    root, advice = os.environ.get("XDG_CACHE_HOME", ""), "set XDG_CACHE_HOME to a folder that can be written"
    if not os.path.isabs(root):
        home = os.path.expanduser("~")
        if not os.path.isabs(home):
            raise UserError(f"{_NO_HOME}; {advice}")
        root = os.path.join(home, ".cache")
    folder = Path(root) / "accdistill_jax"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(0, "Permission denied")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error}); {advice}") from error
    return folder
