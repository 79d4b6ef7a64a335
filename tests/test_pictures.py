"""The command that draws the README's pictures, on a run of the smoke preset."""

import xml.etree.ElementTree

import matplotlib.image

from tests.guides import REPOSITORY, run


def test_pictures_are_drawn(finished, smoke_store, tmp_path):
    command = ["python", str(REPOSITORY / ".github/images/draw.py"), "--run", str(finished)]
    done = run([*command, "--store", str(smoke_store), "--out", str(tmp_path)], tmp_path)
    assert done.returncode == 0, done.stderr
    assert xml.etree.ElementTree.parse(tmp_path / "way.svg").getroot().tag.endswith("svg")
    assert matplotlib.image.imread(tmp_path / "result.png").std() > 0.05
    assert (tmp_path / "heart_rate.png").read_bytes() == (finished / "report" / "heart_rate.png").read_bytes()
    kept = {path.name for path in (REPOSITORY / ".github" / "images").iterdir()} - {"draw.py", "__pycache__"}
    assert kept == {path.name for path in tmp_path.iterdir()}
