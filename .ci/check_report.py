"""Checks the main job's report against its floors: python .ci/check_report.py report.json."""

import json
import sys

evaluation = json.load(open(sys.argv[1], encoding="utf-8"))["evaluation"]
heart_rate = evaluation["targets"]["hr_bpm"]
error = {name: probe["mae"]["value"] for name, probe in heart_rate["probes"].items()}
beaten = {
    d["reference"] for d in heart_rate["differences"] if d["encoder"] == "student" and d["difference"]["high"] < 0
}


def rhythm_beaten(target):
    """True if the student's error is below the median predictor's, with an interval that excludes zero."""
    differences = evaluation["targets"][target]["differences"]
    (of_median,) = [d for d in differences if (d["encoder"], d["reference"]) == ("student", "median")]
    return of_median["difference"]["high"] < 0


found = [r for r in evaluation["retrieval"] if r["encoder"] == "student" and r["pool_size"] == 1000]
shown = {name: round(value, 2) for name, value in error.items()}
print("heart-rate error (bpm):", shown, "| top-1 of 1000:", [round(r["top1"]["value"], 3) for r in found])
checks = {
    "teacher reads heart rate to 1.5 bpm": error["teacher"] <= 1.5,
    "student beats mean predictor and untrained encoder": {"mean", "untrained"} <= beaten,
    "student reads heart rate to 1.4 bpm": error["student"] <= 1.4,
    "student reads SDNN and RMSSD better than the median predictor": all(map(rhythm_beaten, ("sdnn_ms", "rmssd_ms"))),
    "student reads SDNN to 10 ms": evaluation["targets"]["sdnn_ms"]["probes"]["student"]["mae"]["value"] <= 10,
    "top-1 of 1000 at least 96 %, both ways": len(found) == 2 and all(r["top1"]["value"] >= 0.96 for r in found),
}
failed = [name for name, holds in checks.items() if not holds]
sys.exit(f"the main job falls short: {'; '.join(failed)}" if failed else 0)
