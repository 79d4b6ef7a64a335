"""The methods of leave-one-wearer-out, with stand-ins for encoders and trainings."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from accdistill_jax.reproduce.wearers import compare
from accdistill_jax.reproduce.wearers.scores import Classical
from accdistill_jax.reproduce.wearers.trainings import ALONE, WearerEmbeddings, WearerTraining

EACH = 6


@pytest.fixture
def folders(monkeypatch):
    """Wearer -> folder of the training without this wearer."""
    rng = np.random.default_rng(0)
    people = np.repeat(["a", "b", "c", "d"], EACH)
    count = len(people)
    segments = {
        "participant": people,
        "start_unix_s": np.where(people == "a", 12, 23) * 3600.0,  # "a" has no minute at night
        "hr_bpm": rng.uniform(50, 90, count),
    }
    store = SimpleNamespace(path="wearers", num_segments=count, segments=segments)
    rows = lambda: rng.standard_normal((count, 4)).astype(np.float32)
    embedded, found = WearerEmbeddings(rows(), rows(), rows(), rows()), {}

    def trained(wearer, variant, *, folder, **_):
        found[wearer] = folder.name
        return embedded

    monkeypatch.setattr(compare, "open_start", lambda start, path: SimpleNamespace(store=store))
    monkeypatch.setattr(compare, "zero_shot", lambda basis, folder: embedded)
    monkeypatch.setattr(compare, "zero_shot_lags", lambda basis: (rows(), [rows()]))
    monkeypatch.setattr(compare, "read_rates", lambda *_: np.full(count, 60.0))
    monkeypatch.setattr(compare, "trained_on_others", trained)
    monkeypatch.setattr(Classical, "of", classmethod(lambda cls, store: cls(np.full(count, 60.0), rows(), rows())))
    return found


def test_a_wearers_training_has_the_same_folder_for_all_hours(folders):
    training = WearerTraining(variants=(ALONE,))
    compare.compare_methods(Path("s"), Path("r"), Path("o"), training)
    whole_day = dict(folders)
    folders.clear()
    results = compare.compare_methods(Path("s"), Path("r"), Path("o"), training, hours=(22, 6))
    assert results.wearers == ["b", "c", "d"] == list(folders)
    assert folders.items() <= whole_day.items()
