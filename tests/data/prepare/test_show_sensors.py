"""The sensors of a store: kept at the preparation, printed by `show`; older stores have none."""

import pytest

from accdistill_jax.data.prepare.__main__ import main
from accdistill_jax.data.store.opening import sensors_of
from accdistill_jax.data.store.store import Store
from tests.bad_inputs.bases import write_e4


def test_sensors_of_a_prepared_recording_are_kept_and_shown(tmp_path, capsys):
    write_e4(tmp_path / "e4/S01")
    out = str(tmp_path / "store")
    assert main(["empatica_e4", str(tmp_path / "e4"), "--out", out, "--workers", "1", "--quiet"]) == 0
    store = Store.open(out)
    (unit,) = store.manifest["prepared"]
    accel = unit["notes"]["sensors"]["accel"]
    assert accel["step"] == pytest.approx(1 / 64, rel=1e-3) and accel["rate_hz"] == 32
    assert sensors_of(store)["Empatica E4"].startswith("32 Hz, steps of 15.6 mg, noise ")
    capsys.readouterr()
    assert main(["show", out]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Sensors, as median over the recordings" in said and "15.6 mg" in said and "Empatica E4 │ accel" in said


def test_a_store_without_sensors_is_shown_without_them(smoke_store, capsys):
    assert sensors_of(Store.open(smoke_store)) == {}
    assert main(["show", str(smoke_store)]) == 0
    assert "Sensors" not in capsys.readouterr().out
