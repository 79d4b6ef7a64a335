"""Writes an encoder in one or several formats, with its model card."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accdistill_jax.errors import UserError
from accdistill_jax.export import card
from accdistill_jax.export.arrays import READER, has_reader, write_npz, write_safetensors
from accdistill_jax.export.onnx_file import OPSETS, write_onnx
from accdistill_jax.export.plain import Exportable, PlainEncoder, plain_encoder
from accdistill_jax.export.stablehlo import write_stablehlo
from accdistill_jax.files import write_atomically

FORMATS = ("onnx", "stablehlo", "npz", "safetensors")
_INT8, _ARRAYS = "encoder.int8.onnx", "encoder.npz"
_FILES = ("encoder.onnx", _INT8, "encoder.stablehlo", _ARRAYS, READER, "encoder.safetensors")


@dataclasses.dataclass(frozen=True)
class OnnxOptions:
    """Options of the format ONNX.

    Attributes:
        opset: version of the operators.
        int8: also write a file with int8 weights.
    """

    opset: int = OPSETS[0]
    int8: bool = False


_DEFAULT = OnnxOptions()


def write_export(
    encoder: Exportable,
    out: str | os.PathLike[str],
    *,
    formats: Sequence[str],
    onnx: OnnxOptions = _DEFAULT,
    report: Mapping[str, Any] | None = None,
    sections: Callable[[Path], Sequence[str]] = lambda folder: (),
) -> list[Path]:
    """Writes the files of an encoder and their model card.

    Args:
        encoder: a loaded encoder.
        out: folder; created if missing. Files of the same name in it are replaced.
        formats: some of `FORMATS`.
        onnx: options of that format.
        report: report of the encoder's run, for the card.
        sections: further paragraphs of the card, from the folder with the written files.

    Returns:
        The written files, the card last.

    Raises:
        UserError: an unknown format, a package that is not installed, a folder that cannot be written, or one with files of another
            encoder that would stay.
    """
    if unknown := [name for name in formats if name not in FORMATS]:
        raise UserError(f"format {unknown[0]!r} is not one of {', '.join(FORMATS)}")
    if not formats:
        raise UserError(f"no format given; choose from {', '.join(FORMATS)}")
    if onnx.int8 and "onnx" not in formats:
        raise UserError("int8 weights are written for ONNX only; add the format onnx")
    folder, plain = Path(out), plain_encoder(encoder)
    writers: dict[str, Callable[[], list[Path]]] = {
        "onnx": lambda: write_onnx(plain, folder, opset=onnx.opset, int8=onnx.int8),
        "stablehlo": lambda: write_stablehlo(plain, folder),
        "npz": lambda: write_npz(plain, folder),
        "safetensors": lambda: write_safetensors(plain, folder),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _refuse_remains(folder, plain, formats, int8=onnx.int8)
        files = [path for name in dict.fromkeys(formats) for path in writers[name]()]
        path = folder / card.FILE_NAME
        text = card.card_text(
            plain,
            part="student" if encoder.modality == "accel" else "teacher",
            parameters=encoder.parameters,
            formats=list(dict.fromkeys(formats)),
            report=report,
            sections=sections(folder),
        )
        write_atomically(path, text)
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror or error}") from error
    return [*files, path]


def _refuse_remains(folder: Path, plain: PlainEncoder, formats: Sequence[str], *, int8: bool) -> None:
    """Raises UserError if files of another encoder would stay beside the new ones, whose card would seem to be theirs."""
    before = folder / card.FILE_NAME
    if not before.is_file() or plain.contract.fingerprint in before.read_text(encoding="utf-8", errors="replace"):
        return
    replaced = {f"encoder.{name}" for name in formats} | ({_INT8} if int8 else set())
    if _ARRAYS in replaced and has_reader(plain):
        replaced.add(READER)
    if remains := [name for name in _FILES if name not in replaced and (folder / name).is_file()]:
        raise UserError(
            f"{folder} holds {', '.join(remains)} of another encoder, which would stay beside the new files; choose another folder, or "
            "delete them"
        )
