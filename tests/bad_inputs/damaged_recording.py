"""A case of `prepare` with a damaged copy of a whole recording."""

import shutil
from collections.abc import Callable
from pathlib import Path

from tests.bad_inputs.bases import LOOSE
from tests.bad_inputs.case import OUT, PREPARE, Case


def damaged(reader: str, base: Path, name: str, damage: Callable[[Path], None], *named: str) -> Case:
    """A case that damages a copy of `base` and prepares it; the message must hold each of `named`."""

    def build(folder: Path) -> None:
        shutil.copytree(base, folder / "in")
        damage(folder / "in")

    return Case(f"{reader}: {name}", PREPARE, (reader, "{}/in", "--out", "{}/out", *LOOSE), named, build, outputs=OUT)
