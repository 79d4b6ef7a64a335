"""Exports into a folder that has an earlier export."""

import pytest

import accdistill_jax as ad
from accdistill_jax.errors import UserError


def test_files_of_another_encoder_do_not_stay(tmp_path):
    small, wrist = ad.load("synthetic-small"), ad.load("synthetic-wrist")
    small.export(tmp_path, formats=["npz", "safetensors"])
    with pytest.raises(UserError, match=r"holds encoder\.safetensors of another encoder, which would stay"):
        wrist.export(tmp_path, formats=["npz"])
    small.export(tmp_path, formats=["npz"])  # files of the same encoder may stay
    wrist.export(tmp_path, formats=["safetensors", "npz"])
    assert wrist.fingerprint in (tmp_path / "MODEL_CARD.md").read_text()
