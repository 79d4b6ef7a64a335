"""Minutes that an export is compared on: of test people of the run's own stores, whom the encoder has not seen."""

import json
import shutil

import numpy as np
import pytest

import accdistill_jax as ad
from accdistill_jax.api.agreement import unseen_minutes
from accdistill_jax.api.shipped import shipped_folder
from accdistill_jax.data.store.opening import hold_out
from accdistill_jax.data.store.trained_on import trained_on
from accdistill_jax.storage.export import change_meta


@pytest.fixture
def loaded(smoke_store, tmp_path):
    """Loads the student of a run on the store, with some people held out; `says` are further facts of the export."""

    def load(held_out=(), **says):
        (store,) = hold_out([ad.open_store(smoke_store)], held_out)
        export = tmp_path / "run/student/export"
        shutil.copytree(shipped_folder("synthetic-small"), export)
        facts = {"fingerprints": {"data": store.fingerprint}, "trained_on": trained_on([store])}
        change_meta(export, facts | says)
        data = {"stores": [str(smoke_store)], "held_out": list(held_out)}
        (tmp_path / "run/config.json").write_text(json.dumps({"config": {"data": data}}))
        return ad.load(export)

    return load


def people(store, split):
    """Ids of a split."""
    return set(np.asarray(store.segments["participant"])[store.indices(split)].astype(str))


def test_they_are_of_the_test_people(loaded, smoke_store):
    assert set(unseen_minutes(loaded()).participant) == people(ad.open_store(smoke_store), "test")


def test_with_people_held_out_they_are_of_these(loaded, smoke_store):
    one = min(people(ad.open_store(smoke_store), "train"))
    assert set(unseen_minutes(loaded([one])).participant) == {one}


def test_people_whom_its_teacher_has_seen_are_left_out(loaded, smoke_store):
    store = ad.open_store(smoke_store)
    own, (other,) = trained_on([store]), hold_out([store], [min(people(store, "train"))])
    assert unseen_minutes(loaded(trained_on=f"{own}+{other.fingerprint}")) is None


def test_another_store_in_the_same_place_is_not_taken(loaded):
    assert unseen_minutes(loaded(fingerprints={"data": "f00d"})) is None
