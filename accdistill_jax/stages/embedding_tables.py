"""Tables of the embedded minutes of a run, in `embeddings/`, with the columns of `accdistill embed` and the split.

`embeddings/main-student.parquet` holds the minutes that the student embedded, of the stores that the run trains on;
`unseen-NAME-student.parquet` those of an unseen store. The arrays of `main.npz` are in the same order.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from accdistill_jax.data.store.opening import label_values
from accdistill_jax.data.store.store import Store
from accdistill_jax.errors import UserError
from accdistill_jax.evaluation.evaluate import UNTRAINED
from accdistill_jax.evaluation.split_embeddings import SplitEmbeddings
from accdistill_jax.files import write_atomically
from accdistill_jax.readouts.minute_table import embedded_minutes
from accdistill_jax.readouts.readout import Readouts
from accdistill_jax.stages.context import Run
from accdistill_jax.stages.embedding import Embedded, main_rows, unseen_rows

Splits = Mapping[str, SplitEmbeddings]


def write_tables(run: Run, embedded: Embedded, readouts: Mapping[str, Readouts]) -> None:
    """Writes a table for each trained encoder and each group of stores; a file that has this content already stays.

    Args:
        run: the run's context.
        embedded: embeddings of the run's encoders.
        readouts: encoder -> read-outs, whose predictions the tables hold.

    Raises:
        UserError: a file cannot be written.
    """
    groups = {"main": (run.stores, main_rows(run, embedded.encoders), embedded.main)}
    for name, (store, splits) in embedded.unseen.items():
        groups[f"unseen-{name}"] = ((store,), unseen_rows(embedded.encoders, store), splits)
    for name, (stores, rows, encoders) in groups.items():
        for encoder, splits in encoders.items():
            if encoder != UNTRAINED:
                table = _table(stores, rows, splits, readouts.get(encoder))
                _write(run.workdir / "embeddings" / f"{name}-{encoder}.parquet", table)


def _table(
    stores: Sequence[Store], rows: Mapping[str, Sequence[np.ndarray]], splits: Splits, readouts: Readouts | None
) -> pa.Table:
    parts = []
    for split, of_split in splits.items():
        chosen = list(zip(stores, rows[split], strict=True))

        def joined(name: str, chosen: list = chosen) -> np.ndarray:
            return np.concatenate([label_values(store, name)[places] for store, places in chosen])

        clear = joined("ppg_quality")
        columns = {
            "participant": of_split.participant,
            "recording": joined("recording"),
            "split": np.full(len(of_split), split),
            "start_unix_s": joined("start_unix_s"),
            "quality": np.where(np.isfinite(clear), clear, joined("accel_quality")),
            "motion": joined("motion_g"),
        }
        predictions = readouts.predict(of_split.embedding, motion_g=columns["motion"]) if readouts else {}
        parts.append(embedded_minutes(columns, of_split.embedding, predictions))
    return pa.concat_tables(parts)


def _write(path: Path, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    content = sink.getvalue().to_pybytes()
    try:
        if not path.is_file() or path.read_bytes() != content:
            write_atomically(path, content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
