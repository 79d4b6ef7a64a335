"""Weights as npz or safetensors, with the description that a reader needs, and a reader in numpy."""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from accdistill_jax.errors import UserError
from accdistill_jax.export import numpy_reader
from accdistill_jax.export.plain import PlainEncoder
from accdistill_jax.files import write_atomically
from accdistill_jax.models.attention import distance_bias, places
from accdistill_jax.models.ops import sinusoidal_positions
from accdistill_jax.models.transformer import TransformerEncoder
from accdistill_jax.storage.checked_npz import encode_npz

READER = "encoder.py"


def named_weights(plain: PlainEncoder) -> dict[str, np.ndarray]:
    """Parameters by their path, such as "block_0.attention.qkv.kernel"; float32."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(plain.params)
    return {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(value) for path, value in leaves}


def has_reader(plain: PlainEncoder) -> bool:
    """True if the numpy reader runs this encoder: a Transformer on a real sensor's signal."""
    settings = plain.branch.inputs
    simulated = settings.simulated_rate_fraction < 1 or settings.simulated_step or settings.simulated_axes
    return isinstance(plain.branch.encoder, TransformerEncoder) and not simulated


def description(plain: PlainEncoder) -> dict:
    """JSON values that rebuild the model: contract, input settings, architecture."""
    encoder: Any = plain.branch.encoder
    fields = {field.name: getattr(encoder, field.name) for field in dataclasses.fields(encoder)}
    model = {name: value for name, value in fields.items() if isinstance(value, (int, float, str, tuple, list))}
    return {
        "contract": plain.contract.as_texts(),
        "inputs": dataclasses.asdict(plain.branch.inputs),
        "architecture": type(encoder).__name__,
        "model": model,
        "representation": getattr(plain.branch, "representation", "mean"),
    }


def position_codes(plain: PlainEncoder) -> dict[str, np.ndarray]:
    """Constants of the Transformer's position codes, so that a reader need not compute them."""
    encoder = plain.branch.encoder
    if not isinstance(encoder, TransformerEncoder):
        return {}
    tokens = plain.shape[0] // encoder.patch
    where = places(np.arange(tokens, dtype=np.int32)[None], count=tokens, dim=encoder.width // encoder.heads)
    return {
        "codes": sinusoidal_positions(tokens, encoder.width),
        "cos": np.asarray(where.cos),
        "sin": np.asarray(where.sin),
        "bias": np.asarray(distance_bias(where.positions, encoder.heads)),
    }


def write_npz(plain: PlainEncoder, folder: Path) -> list[Path]:
    """Writes encoder.npz, and encoder.py where the numpy reader runs the architecture; returns their paths."""
    path = folder / "encoder.npz"
    about = np.array(json.dumps(description(plain)))
    write_atomically(path, encode_npz({"about": about, **named_weights(plain), **position_codes(plain)}))
    if not has_reader(plain):
        return [path]
    reader = folder / READER
    write_atomically(reader, Path(numpy_reader.__file__).read_text(encoding="utf-8"))
    return [path, reader]


def write_safetensors(plain: PlainEncoder, folder: Path) -> list[Path]:
    """Writes encoder.safetensors; the description is in its metadata. Returns the path.

    Source: https://huggingface.co/docs/safetensors, section Format.
    """
    path = folder / "encoder.safetensors"
    about = {"about": json.dumps(description(plain)), **plain.contract.as_texts()}
    write_atomically(path, encode_safetensors({**named_weights(plain), **position_codes(plain)}, about))
    return [path]


def encode_safetensors(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """Encodes float32 arrays: length of the header, header in JSON, values in little-endian order."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    start, parts = 0, []
    for name, array in arrays.items():
        if array.dtype != np.float32:
            raise UserError(f"safetensors: {name} is {array.dtype}, only float32 is written")
        content = np.ascontiguousarray(array, "<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [start, start + len(content)]}
        parts.append(content)
        start += len(content)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(parts)
