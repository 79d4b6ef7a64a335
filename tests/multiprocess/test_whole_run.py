"""Two processes make one run: every stage, in seconds."""

import json
import shutil

import pytest


@pytest.mark.slow
def test_two_processes_go_all_the_way(launch, settings, smoke_store, tmp_path):
    """Each process has its own store and caches the teacher's views beside it."""
    workdir = tmp_path / "run"
    stores = [shutil.copytree(smoke_store, tmp_path / f"store-{rank}") for rank in range(2)]
    keys = {
        "stages": "('teacher','student','evaluation','report')",
        "teacher.train.duration": "4 steps",
        "student.train.duration": "4 steps",
        "teacher.cached_views": 2,
        "data.stores": None,
    }
    job = launch(
        2, 1, settings(workdir, **keys), own={rank: [f"--config.data.stores=('{stores[rank]}',)"] for rank in range(2)}
    )
    job.finish()
    kept = [{path.name: path.read_bytes() for path in store.glob("teacher_views/*/part-*")} for store in stores]
    assert kept[0] and kept[0] == kept[1]
    assert "report: " in job.stdout(0) and not job.said(1), job.logs()
    assert json.loads((workdir / "report.json").read_text())["run"]["hardware"]["device_count"] == 2
    records = [json.loads(line) for line in (workdir / "metrics/student.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if record["kind"] == "train"] == [1, 2, 3, 4]
