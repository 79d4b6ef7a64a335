"""Two processes are one run: the whole of it, every stage, in seconds."""

import json


def test_two_processes_go_all_the_way(launch, settings, tmp_path):
    workdir = tmp_path / "run"
    stages = "('teacher','student','evaluation','report')"
    job = launch(2, 1, settings(workdir, **{"stages": stages, "teacher.train.duration": "4 steps", "student.train.duration": "4 steps"}))
    job.finish()
    assert "report: " in job.stdout(0) and not job.said(1), job.logs()
    assert json.loads((workdir / "report.json").read_text())["run"]["hardware"]["device_count"] == 2
    records = [json.loads(line) for line in (workdir / "metrics/student.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if record["kind"] == "train"] == [1, 2, 3, 4]
