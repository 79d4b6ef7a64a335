"""Contender: reads the same segments from an ArrayRecord file with Grain.

A record holds the bytes of a segment's arrays in sequence. Grain reads records in a seeded global shuffle, parses them into arrays
and stacks them into batches. The file is uncompressed and each record is a chunk (`group_size:1`), as Grain recommends for shuffled
reading.
"""

from pathlib import Path
from typing import Any, cast

import grain
import numpy as np
from absl import flags

from accdistill_jax.benchmark.contenders.reading import SEED
from accdistill_jax.benchmark.contest import Skipped
from accdistill_jax.data.store.store import Store

_AT_ONCE = 256  # segments per read


def write_records(store: Store, path: Path) -> None:
    """Writes the training segments of a store, in the store's order."""
    from array_record.python.array_record_module import ArrayRecordWriter

    rows = store.indices("train")
    writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    for start in range(0, len(rows), _AT_ONCE):
        batch = store.read(rows[start : start + _AT_ONCE])
        for number in range(len(batch["ppg"])):
            writer.write(b"".join(values[number].tobytes() for values in batch.values()))
    writer.close()


class Parse:
    """Parses a record into the arrays of a segment of `store`."""

    def __init__(self, store: Store):
        segment = store.read(np.zeros(1, np.int64))
        self._layout = [(name, values.dtype, values.shape[1:]) for name, values in segment.items()]

    def __call__(self, record: bytes) -> dict[str, np.ndarray]:
        parsed, offset = {}, 0
        for name, dtype, shape in self._layout:
            count = int(np.prod(shape))
            parsed[name] = np.frombuffer(record, dtype, count, offset).reshape(shape)
            offset += parsed[name].nbytes
        return parsed


def prepare_contender(order: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Opens the file; the first contender writes it.

    Worker processes are started once and read some batches ahead between measurements, which favours them slightly.

    Args:
        order: "store"; "batch", segments per batch; "steps", batches per iteration; "threads"; "prefetch", in batches; "processes",
            number of worker processes, 0 for none; "folder" of the file.
    """
    try:
        from array_record.python import array_record_module  # noqa: F401
    except ImportError as error:
        raise Skipped(f"array_record cannot be imported ({error})") from error
    store, path = Store.open(order["store"]), Path(order["folder"]) / "train.array_record"
    if not path.exists():
        write_records(store, path)
    source = grain.sources.ArrayRecordDataSource(str(path))
    dataset = grain.MapDataset.source(source).seed(SEED).shuffle().repeat().map(Parse(store)).batch(order["batch"])
    options = grain.ReadOptions(num_threads=order["threads"], prefetch_buffer_size=order["prefetch"])
    check_batch(cast(Any, dataset[0]), store)
    step, steps = 0, order["steps"]

    def run(count: int) -> None:
        nonlocal step
        for _ in iter(dataset[step : step + count * steps].to_iter_dataset(options)):
            pass
        step += count * steps

    def run_in_processes(count: int) -> None:
        for _ in range(count * steps):
            next(endless)

    if order["processes"]:
        flags.FLAGS.mark_as_parsed()  # Grain's processes read its flags
        workers = grain.MultiprocessingOptions(num_workers=order["processes"], per_worker_buffer_size=1)
        endless = iter(dataset.to_iter_dataset(options).mp_prefetch(workers))
        run = run_in_processes
    run(1)
    return {"segments": order["batch"] * steps}, run


def check_batch(batch: dict[str, np.ndarray], store: Store) -> None:
    """Raises AssertionError unless a batch holds different, complete segments of the store's training split."""
    every = store.read(store.indices("train")[: 4 * _AT_ONCE])
    known = {row.tobytes(): number for number, row in enumerate(every["ppg"])}
    places = [(place, known[row.tobytes()]) for place, row in enumerate(batch["ppg"]) if row.tobytes() in known]
    assert len({number for _, number in places}) == len(places)
    for place, number in places:
        for name, values in batch.items():
            np.testing.assert_array_equal(values[place], every[name][number])


if __name__ == "__main__":
    from accdistill_jax.benchmark.contest import serve

    serve(prepare_contender)
