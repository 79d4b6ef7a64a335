"""Contender: generates or prepares minutes and writes a store, with the code of this package."""

from pathlib import Path
from typing import Any

from accdistill_jax.benchmark.made_up import raw_recordings
from accdistill_jax.data import recordings
from accdistill_jax.data.prepare.preparation import PreparationSettings
from accdistill_jax.data.prepare.preparation import prepare_recordings as prepare_store
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.synthetic.synthetic import SyntheticSettings, write_store


def prepare_contender(order: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Prepares the work, and does it once.

    Args:
        order: "out", a new folder; "workers", number of worker processes; and either "population", participants and minutes of
            each, or "files", raw recordings.
    """
    out = Path(order["out"])
    preparation = PreparationSettings(workers=order["workers"], overwrite=True, quiet=True)
    if "files" in order:
        discovered = recordings.Found(
            [raw_recordings.source(Path(file)) for file in order["files"]], reader="benchmark"
        )

        def make() -> Any:
            return prepare_store(discovered, out, settings=PreprocessSettings(), preparation=preparation)
    else:
        participants, minutes = order["population"]
        settings = SyntheticSettings(participants=participants, segments_per_participant=minutes)

        def make() -> Any:
            return write_store(out, settings, preparation=preparation)

    def run(count: int) -> None:
        for _ in range(count):
            make()

    counts = make().manifest["counts"]["total"]
    return {"minutes": counts["examined"], "kept": counts["kept"]}, run


if __name__ == "__main__":
    from accdistill_jax.benchmark.contest import serve

    serve(prepare_contender)
