"""Copies of a work directory at an object-store address."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from accdistill_jax.errors import UserError
from accdistill_jax.runtime.peers.peers import Peers
from accdistill_jax.storage.mirror import Mirror


class Copies(NamedTuple):
    """Uploads the work directory to its address; no-op for local runs.

    Attributes:
        later: starts a copy in the background.
        now: copies and waits for the end.
        stopping: as `now`, but a failure is only a warning.
    """

    later: Callable[[], None] = lambda: None
    now: Callable[[], None] = lambda: None
    stopping: Callable[[], None] = lambda: None


def connect_copies(
    stack: contextlib.ExitStack, address: str, folder: Path, peers: Peers, say: Callable[[str], None]
) -> Copies:
    """Fetches the run at `address` into `folder` on process 0; returns the functions that copy it back."""
    made: list[Copies] = []

    def fetch() -> None:
        mirror = stack.enter_context(Mirror(address, folder, say=say))
        mirror.pull()

        def stopping() -> None:
            try:
                mirror.push()
            except UserError as error:  # the reason of the stop is reported; a later start copies
                say(f"warning: {error}")

        made.append(Copies(mirror.push_later, mirror.push, stopping))

    peers.from_first("fetch", fetch)
    return made[0] if made else Copies()
