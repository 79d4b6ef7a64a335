"""Exports: reading from addresses is refused."""

import pytest

from accdistill_jax.errors import UserError
from accdistill_jax.storage.export import load_params


def test_an_address_is_refused_with_the_way_to_its_files():
    with pytest.raises(UserError, match=r"^gs://bucket/run/student/export: .*local folders only.*mirror pull"):
        load_params("gs://bucket/run/student/export")
