"""Files that are either whole or absent: local paths and object-store addresses alike."""

import os
import threading

from etils import epath


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
