"""`benchmark parity`: agreement of every exported format with the trained encoder, on minutes of test people."""

import argparse
import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from accdistill_jax.benchmark.arguments import positive
from accdistill_jax.errors import UserError
from accdistill_jax.user_paths import expanded

_BATCH = 100
_LABEL = "hr_bpm"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments besides those of every benchmark."""
    parser.add_argument("run", type=expanded, help="work directory of a finished run, with its stores")
    parser.add_argument("--part", choices=("student", "teacher"), help="encoder of the run (default: the student)")
    parser.add_argument("--minutes", type=positive, default=1000, metavar="N", help="test minutes (default 1000)")


def measure(arguments: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Measures and returns a record of plain values.

    Raises:
        UserError: the run has no stores or read-outs at hand, or a package for a format is missing.
    """
    from accdistill_jax.api.agreement import unseen_minutes
    from accdistill_jax.api.loading import load

    encoder = load(arguments.run, part=arguments.part)
    minutes = unseen_minutes(encoder, most=arguments.minutes)
    if minutes is None or encoder.readouts is None or _LABEL not in encoder.readouts.targets:
        raise UserError(
            f"{arguments.run}: its stores or its read-out of heart rate are not at hand; give a finished run"
        )
    readout, truth = encoder.readouts.targets[_LABEL], minutes.labels[_LABEL]
    trained = encoder.encode(minutes.signal)
    record = {"run": arguments.run, "part": encoder.part, "minutes": len(minutes.signal), "formats": {}}
    with tempfile.TemporaryDirectory(prefix="accdistill-") as folder:
        encoder.export(folder, formats=["onnx", "stablehlo", "npz"], int8=True)
        for name, embeddings in [("Python", trained), *_embedded(Path(folder), minutes.signal)]:
            product = np.sum(embeddings * trained, axis=1)
            cosine = product / np.linalg.norm(embeddings, axis=1) / np.linalg.norm(trained, axis=1)
            error = np.abs(readout.estimate(embeddings).value - truth)
            record["formats"][name] = {
                "largest_difference": float(np.abs(embeddings - trained).max()),
                "heart_rate_error": float(np.nanmean(error)),
                "smallest_cosine": float(cosine.min()),
            }
            say(name)
    record["largest_value"] = float(np.abs(trained).max())
    return record


def _embedded(folder: Path, signal: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Embeddings by every format, in the program that users of the format run."""
    import jax

    from accdistill_jax.api.agreement import onnx_embeddings
    from accdistill_jax.export.arrays import READER

    yield "ONNX, float32", onnx_embeddings(folder / "encoder.onnx", signal)
    yield "ONNX, int8 weights", onnx_embeddings(folder / "encoder.int8.onnx", signal)
    parts = [signal[start : start + _BATCH] for start in range(0, len(signal), _BATCH)]
    program = jax.export.deserialize(bytearray((folder / "encoder.stablehlo").read_bytes()))
    yield "StableHLO", np.concatenate([np.asarray(program.call(part)) for part in parts])
    if (folder / READER).is_file():
        spec = importlib.util.spec_from_file_location("reader", folder / READER)
        assert spec is not None and spec.loader is not None
        reader = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(reader)
        weights, about = reader.read_weights(folder / "encoder.npz")
        yield "numpy", np.concatenate([reader.embed_signal(weights, about, part) for part in parts])


def report(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    from accdistill_jax.benchmark.model.tables import table

    rows = [
        [name, f"{f['largest_difference']:.1g}", f"{f['heart_rate_error']:.3f}", f"{f['smallest_cosine']:.4f}"]
        for name, f in record["formats"].items()
    ]
    heading = (
        f"# Agreement of exports: {record['part']}, {record['minutes']} minutes of test people\n\n"
        f"Embeddings reach {record['largest_value']:.2g}.\n\n"
    )
    return heading + table(("", "largest difference", "heart-rate error, bpm", "smallest cosine"), rows)
