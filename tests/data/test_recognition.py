"""`prepare auto`: one reader is recognised and said, mixed and unknown folders are described in a line."""

import json
import shutil

import numpy as np
import pytest

from accdistill_jax.data.prepare.__main__ import main
from accdistill_jax.data.recognition import recognise
from accdistill_jax.data.store.store import Store
from accdistill_jax.errors import UserError
from tests.bad_inputs.bases import write_e4, write_generic, write_troika
from tests.data.recordings import test_emotibit, test_polar, test_verily_tsdf


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """A folder for each of some readers, named by it."""
    root = tmp_path_factory.mktemp("kinds")
    write_e4(root / "empatica_e4/S01")
    write_troika(root / "troika/data")
    write_generic(root / "generic/p01")
    test_polar.write(root / "polar", test_polar.files())
    test_verily_tsdf.write(root / "verily_tsdf", test_verily_tsdf.contents())
    (root / "emotibit").mkdir()
    for name, content in test_emotibit.files().items():
        (root / "emotibit" / name).write_text(content)
    (root / "plain").mkdir()
    rows = np.column_stack([np.arange(3000) / 50, np.random.default_rng(0).normal([0, 0, 1], 0.01, (3000, 3))])
    np.savetxt(root / "plain/watch.csv", rows, fmt="%.4f", delimiter=",", header="time,x,y,z", comments="")
    return root


@pytest.mark.parametrize("name", ["empatica_e4", "troika", "generic", "polar", "verily_tsdf", "emotibit", "plain"])
def test_the_reader_is_recognised_with_a_reason(kinds, name):
    recognised = recognise([kinds / name])
    assert recognised.reader == name and "it finds 1 recording in" in recognised.why


def test_the_reason_names_readers_that_know_only_the_ending(kinds):
    assert "not banglejs: " in recognise([kinds / "plain"]).why
    assert "such as S01" in recognise([kinds / "empatica_e4"]).why


def test_options_of_a_table_decide(kinds):
    assert recognise([kinds / "plain/watch.csv"], {"rate_hz": 50}).reader == "plain"


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match="gone: no such file or folder$"):
        recognise([tmp_path, tmp_path / "gone"])
    with pytest.raises(UserError, match="only local files are recognised; choose the reader"):
        recognise(["s3://bucket/recordings"])


def test_a_mixed_folder_is_described(kinds, tmp_path):
    for name in ("empatica_e4", "troika"):
        shutil.copytree(kinds / name, tmp_path / name)
    message = (
        r"several readers know files there: empatica_e4 \(3 files, such as S01.*; troika \(2 files, .*Choose the reader"
    )
    with pytest.raises(UserError, match=message):
        recognise([tmp_path])
    assert recognise([tmp_path / "troika"]).reader == "troika"
    with pytest.raises(UserError, match="no reader knows these files"):
        recognise([tmp_path / "troika", kinds / "polar"])


def test_described_files_beside_others(kinds, tmp_path):
    shutil.copytree(kinds / "generic", tmp_path / "generic")
    (tmp_path / "generic/p01/notes.csv").write_text("a,b\n1,2\n")
    assert recognise([tmp_path]).reader == "generic"
    shutil.copytree(kinds / "troika", tmp_path / "troika")
    with pytest.raises(UserError, match=r"generic \(5 files.*; troika \(2 files"):
        recognise([tmp_path])


UNKNOWN = {
    "empty": ({}, "Found: no file"),
    "garmin": (
        {"a.fit": "x", "b.fit": "x", "c.json": "{}"},
        r"Found: 2 \.fit, 1 \.json\. \.fit may be activities of sports",
    ),
    "excel": ({"a.xlsx": "x"}, r"\.xlsx may be Excel: save it as CSV"),
    "health": ({"export.xml": "<x/>"}, r"\.xml may be Apple Health"),
    "notes": ({"notes.md": "# notes"}, r"Found: 1 \.md\. Choose the reader"),
    "matlab": ({"x.mat": "MATLAB 5.0"}, r"Found: 1 \.mat\. \.mat may be MATLAB of another set"),
    "pickle": ({"x.pkl": "x"}, r"\.pkl may be a pickle of another set"),
    "json": ({"x.json": "{"}, r"\.json may be an export of a phone"),
    "no acceleration": (
        {"steps.csv": "day,steps\n1,2\n"},
        "banglejs: .*the column .* is missing.*plain: .*no table of numbers",
    ),
    "empty table": ({"a.csv": ""}, "banglejs: .*the file is empty"),
    "damaged session": ({"S1/ACC.csv": "1\n", "S1/BVP.csv": "2\n"}, "empatica_e4: BVP.csv: the two header lines"),
    "polar without samples": ({"a_ACC.txt": test_polar.ACC_HEADER}, "polar: .*fewer than two samples"),
    "truncated binary": ({"a.csv": "\0\1\2"}, "banglejs: "),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_folder_is_described_in_a_line(tmp_path, capsys, name):
    contents, message = UNKNOWN[name]
    test_polar.write(tmp_path / "in", {})
    for file, content in contents.items():
        (tmp_path / "in" / file).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / file).write_text(content)
    assert main(["auto", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "no reader knows these files" in error
    with pytest.raises(UserError, match=message):
        recognise([tmp_path / "in"])


def test_auto_prepares_as_the_reader_does(kinds, tmp_path, capsys):
    flags = ["--workers", "1", "--quiet"]
    assert main(["auto", str(kinds / "empatica_e4"), "--out", str(tmp_path / "auto"), *flags]) == 0
    assert "recognised empatica_e4: it finds 1 recording in 3 files" in " ".join(capsys.readouterr().out.split())
    assert main(["empatica_e4", str(kinds / "empatica_e4"), "--out", str(tmp_path / "named"), *flags]) == 0
    auto, named = (Store.open(tmp_path / name).manifest for name in ("auto", "named"))
    assert json.dumps(auto["source_settings"]) == json.dumps(named["source_settings"])
    assert auto["fingerprint"] == named["fingerprint"]


def test_an_address_needs_a_named_reader():
    with pytest.raises(UserError, match="s3://bucket/nights: only local files are recognised; choose the reader"):
        recognise(["s3://bucket/nights"])
