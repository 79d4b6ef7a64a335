"""Slow tests in shares: each file is in one, and none is lost."""

from types import SimpleNamespace

import pytest

from tests.conftest import in_share


def test_every_test_is_in_one_share_and_files_stay_together():
    items = [SimpleNamespace(path=f"test_{file}.py", name=name) for file in "dacb" for name in "xyz"]
    shares = [in_share(items, f"{turn}/3") for turn in range(3)]
    assert [sorted({item.path for item in share}) for share in shares] == [
        ["test_a.py", "test_d.py"],
        ["test_b.py"],
        ["test_c.py"],
    ]
    assert sorted(id(item) for share in shares for item in share) == sorted(map(id, items))


def test_a_share_that_is_none_is_refused():
    with pytest.raises(pytest.UsageError, match=r"ACCDISTILL_SLOW_SHARE=3/3: not K/N"):
        in_share([], "3/3")
