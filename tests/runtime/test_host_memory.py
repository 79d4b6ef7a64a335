"""Freed memory stays with the process where JAX computes on CPU, and only there."""

import importlib.machinery
import importlib.util
import os
import subprocess
import sys

import pytest

from accdistill_jax.runtime import host_memory

PROGRAM = """
import resource, sys
import numpy as np
from accdistill_jax.runtime.host_memory import keep_freed

told = keep_freed() if sys.argv[1] == "keep" else None
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for turn in range(6):
    before = faults()
    np.empty(2**26, np.uint8).fill(1)  # and free again
print(told, faults() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's mallopt")
def test_memory_that_was_freed_is_not_faulted_in_again():
    def last_turn(how: str) -> tuple[str, int]:
        said = subprocess.run(
            [sys.executable, "-c", PROGRAM, how],
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        return said[0], int(said[1])

    pages = 2**26 // os.sysconf("SC_PAGE_SIZE")
    told, kept = last_turn("keep")
    if told == "False":
        pytest.skip("another C library than glibc")
    _, handed_back = last_turn("as it is")
    assert kept < pages / 100
    assert kept < handed_back  # fewer where the kernel gives huge pages


@pytest.mark.parametrize(
    ("platforms", "plugin", "expected"),
    [("cpu", True, True), ("cuda", False, False), ("", True, False), ("", False, True)],
)
def test_what_jax_will_compute_on_is_found_without_starting_it(monkeypatch, platforms, plugin, expected):
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    spec = importlib.machinery.ModuleSpec("jax_plugins", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec if plugin and name == "jax_plugins" else None)
    assert host_memory.computes_on_cpu() is expected
    if not expected:
        assert not host_memory.keep_freed()
