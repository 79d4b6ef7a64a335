"""The section on the data."""

import pytest

from accdistill_jax.reproduce.measure.measure import data_part
from accdistill_jax.reproduce.measure.results import Bench
from accdistill_jax.reproduce.plan.grid import plan_grid


@pytest.mark.parametrize(("preset", "of_validation"), [("smoke", True), ("trials", True), ("claims", False)])
def test_the_people_behind_the_numbers_are_named(smoke_store, preset, of_validation):
    plan = plan_grid(preset, stores=(str(smoke_store),))
    text = " ".join(data_part(Bench(plan, {})).section.text)
    assert ("those of the trials are from the validation people" in text) == of_validation
