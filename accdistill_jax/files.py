"""Files that are either whole or absent: local paths and object-store addresses alike."""

import os
import re
import threading
from pathlib import Path

from etils import epath

_LEFTOVER = re.compile(r"\..*\.\d+-\d+\.tmp")


def write_atomically(path: str | os.PathLike, content: str | bytes) -> None:
    """Writes a small file so that a reader sees the old content or the new one, never a part.

    Args:
      path: local path or object-store address; its folder must exist.
      content: text (UTF-8) or bytes.

    Raises:
      OSError: the file system refused, for example because it is full; nothing is left behind.
    """
    path = epath.Path(path)
    temporary = path.parent / f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp"
    data = content.encode() if isinstance(content, str) else content
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            if hasattr(file, "fileno"):
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_leftovers(folder: Path) -> None:
    """Removes what `write_atomically` has left below a local folder where it was killed; nobody may be writing there now."""
    for path in Path(folder).rglob(".*.tmp"):
        if _LEFTOVER.fullmatch(path.name):
            path.unlink(missing_ok=True)
