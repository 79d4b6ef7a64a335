"""The model card of an exported encoder: data, results, limits, input contract, and how to load each format."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accdistill_jax.errors import UserError
from accdistill_jax.export import numpy_reader
from accdistill_jax.export.arrays import READER
from accdistill_jax.export.plain import PlainEncoder
from accdistill_jax.files import is_address
from accdistill_jax.labels import LABELS
from accdistill_jax.storage.folder import open_folder
from accdistill_jax.text import escape_markdown

FILE_NAME = "MODEL_CARD.md"
_LIMITS = """\
- Not a medical device. Do not diagnose, treat, raise alarms or make decisions about a person with it.
- The figures below hold for people and sensors like those of the data below, at rest or with little motion. Others need a test of
  their own, against a reference.
- A minute with much motion, or without gravity in the acceleration, gives an embedding that means nothing, without an error."""
_LOADING = {
    "onnx": """\
```python
import numpy as np, onnxruntime

session = onnxruntime.InferenceSession("encoder.onnx")
signal = np.load("signal.npy").astype(np.float32)  # {shape}
(embedding,) = session.run(None, {{"signal": signal}})
```""",
    "stablehlo": """\
```python
import jax, numpy as np

encoder = jax.export.deserialize(bytearray(open("encoder.stablehlo", "rb").read()))
signal = np.load("signal.npy").astype(np.float32)  # {shape}
embedding = encoder.call(signal)
```""",
    "safetensors": """\
```python
from safetensors.numpy import load_file

weights = load_file("encoder.safetensors")  # the metadata "about" describes inputs and architecture in JSON
```""",
    "npz": """\
```python
import numpy as np

weights = dict(np.load("encoder.npz"))  # "about" describes inputs and architecture in JSON
```""",
}


def read_report(export_folder: str) -> Mapping[str, Any] | None:
    """The report of the run that an export folder `RUN/student/export` belongs to; None without a finished report.

    An encoder that comes with the package has its report in its folder.
    """
    if is_address(export_folder):
        return _report_at(export_folder)
    path = Path(export_folder) / "report.json"
    if not path.is_file():
        path = Path(export_folder).parent.parent / "report.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); repeat the run's command, which writes it again") from error


def _report_at(address: str) -> Mapping[str, Any] | None:
    """The report beside an export at an address, or of the run around it."""
    folders = (address, address.removesuffix("/export").rpartition("/")[0])
    for folder in folders if address.endswith("/export") else folders[:1]:
        if (content := open_folder(folder).read("report.json")) is not None:
            try:
                return json.loads(content)
            except ValueError as error:
                raise UserError(
                    f"{folder}/report.json cannot be read ({error}); repeat the run's command, which writes it again"
                ) from error
    return None


def card_text(
    plain: PlainEncoder,
    *,
    part: str,
    parameters: int,
    formats: Sequence[str],
    report: Mapping[str, Any] | None,
    sections: Sequence[str] = (),
) -> str:
    """Text of the card.

    Args:
        plain: the exported encoder.
        part: "teacher" or "student".
        parameters: number of its parameters.
        formats: exported formats.
        report: see `read_report`.
        sections: further paragraphs, after the results.
    """
    contract = plain.contract
    sensor = "wrist acceleration" if part == "student" else "PPG"
    parts = [
        f"# Encoder of {sensor}",
        f"A {part} of accdistill_jax with {parameters:,} parameters. It maps {contract.window_s:g} s of {sensor} to an "
        "embedding, for linear read-outs and comparisons. Retrieval heads are not part of it.",
        "## Not for",
        _LIMITS,
        "## Input and output",
        markdown_table([[name, escape_markdown(value)] for name, value in contract.as_texts().items()]),
        "## Data",
        *_data(report),
        "## Results",
        *_results(report, part),
        *sections,
    ]
    if formats:
        parts.append("## Load it")
    shape = f"[batch, {plain.shape[0]}, {plain.shape[1]}]"
    parts += [f"{name}:\n\n{_LOADING[name].format(shape=shape)}" for name in formats]
    if "npz" in formats:
        parts += _reader_section(plain)
    return "\n\n".join(parts) + "\n"


def _reader_section(plain: PlainEncoder) -> list[str]:
    from accdistill_jax.export.arrays import has_reader

    if not has_reader(plain):
        return ["No numpy reader is written for this architecture; take ONNX or StableHLO."]
    source = Path(numpy_reader.__file__).read_text(encoding="utf-8")
    return [f"In numpy alone ({READER}, beside encoder.npz):\n\n```python\n{source}```"]


def _data(report: Mapping[str, Any] | None) -> list[str]:
    if report is None:
        return ["The run has no report: nothing is known of the data here but the fingerprint above."]
    rows = []
    for path, about in report["run"].get("data", {}).items():
        segments = ", ".join(f"{count} {split}" for split, count in about.get("segments", {}).items())
        rows.append([escape_markdown(Path(path).name), escape_markdown(about.get("source")), segments])
    people = ", ".join(f"{split['participants']} {name}" for name, split in report["evaluation"]["splits"].items())
    lines = [markdown_table(rows, heads=("Store", "Device or source", "Minutes")), f"People: {people}."]
    if any(about.get("source") == "synthetic" for about in report["run"].get("data", {}).values()):
        lines.append("**Synthetic people**: simulated recordings, so the results say little about real wrists.")
    return lines


def _results(report: Mapping[str, Any] | None, part: str) -> list[str]:
    if report is None:
        return ["No report."]
    rows = []
    for target, result in report["evaluation"]["targets"].items():
        probes = result.get("probes", {})
        if part not in probes:
            continue
        baselines = [estimate_text(probes[name]["mae"]) if name in probes else "–" for name in ("median", "own mean")]
        label = LABELS.get(target)
        words = f"{label.words} ({label.unit})" if label else target
        rows.append([words, estimate_text(probes[part]["mae"]), *baselines])
    if not rows:
        return ["No label had enough values."]
    heads = (
        "Mean absolute error",
        "this encoder, linear read-out",
        "median of the training people",
        "person's own mean",
    )
    return [
        markdown_table(rows, heads=heads),
        "On people whom neither encoder nor read-out has seen, in brackets 95 % intervals over people. The person's own mean is "
        "the mean of the reference labels of the same person's other minutes.",
    ]


def estimate_text(value: Mapping[str, Any]) -> str:
    """An estimate in a table, with its interval in brackets."""
    if value["value"] is None:
        return "–"
    text = f"{value['value']:.3g}"
    return text if value.get("low") is None else f"{text} [{value['low']:.3g}, {value['high']:.3g}]"


def markdown_table(rows: Sequence[Sequence[object]], heads: Sequence[str] = ("", "")) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
