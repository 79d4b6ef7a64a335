"""Processes that are stopped after each test."""

import pytest

from tests.runtime.peers.peer_processes import Processes


@pytest.fixture
def processes(tmp_path, repository):
    made = Processes(tmp_path, repository)
    yield made
    made.stop()
