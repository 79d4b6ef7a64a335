"""Participants of recordings that are named by the time: a preparation asks who they are."""

import pytest

from accdistill_jax.data import recordings
from accdistill_jax.data.prepare.__main__ import main
from accdistill_jax.data.prepare.people import ask_for_people, stated_rule
from accdistill_jax.data.store.remarks import holds_date
from accdistill_jax.errors import UserError

NIGHTS = ("2024-05-01_22-30-11-123456", "2024-05-02_22-31-12-654321")


def emotibit(folder, names=NIGHTS):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        for axis in ("AX", "AY", "AZ"):
            (folder / f"{name}_{axis}.csv").write_text("x")
    return folder


def found(folder, **options):
    return recordings.find("emotibit", folder, **options)


@pytest.mark.parametrize(
    "name",
    [*NIGHTS, "P01_20240501", "20240501223011", "01.05.2024", "05-31-2024 rest", "1714602611", "A_1714602611123_x"],
)
def test_names_by_the_time_are_recognised(name):
    assert holds_date(name)


@pytest.mark.parametrize("name", ["P01", "S12345", "003", "12345_0000000001", "1-2-001", "20249", "2001", "99999999"])
def test_other_names_are_no_dates(name):
    assert not holds_date(name)


def test_recordings_named_by_dates_need_a_rule(tmp_path):
    with pytest.raises(UserError, match=r"2 participants would be named by dates") as raised:
        ask_for_people(found(emotibit(tmp_path / "anna")))
    for part in (*NIGHTS, "--participant-from", "parent (the folder around)", "name (each of them", "prefix (the beg"):
        assert part in str(raised.value)
    ask_for_people(found(tmp_path, participant_from="name"))
    ask_for_people(found(emotibit(tmp_path / "one", NIGHTS[:1])))
    ask_for_people(found(emotibit(tmp_path / "people", ("P01", "P02"))))


def test_recordings_named_by_dates_are_not_added_to_a_store_of_such(tmp_path):
    one = found(emotibit(tmp_path, NIGHTS[:1]))
    ask_for_people(one, known={"anna"})
    with pytest.raises(UserError, match="prepare the store anew with --participant-from parent|name"):
        ask_for_people(one, known={NIGHTS[1]})


def test_a_rule_that_leaves_one_person_is_told(tmp_path):
    lines = []
    ask_for_people(
        found(emotibit(tmp_path / "wrist", ("watch_P01", "watch_P02")), participant_from="prefix"), report=lines.append
    )
    assert "--participant-from prefix makes all 2 recordings (watch_P01, watch_P02) one person, 'watch'" in lines[0]
    ask_for_people(found(tmp_path, participant_from="parent"), report=lines.append)
    assert "parent makes all 2 recordings" in lines[1] and "'wrist'" in lines[1]
    ask_for_people(found(tmp_path), report=lines.append)
    assert len(lines) == 2


def test_dates_are_no_prefix_of_people(tmp_path):
    for names in (NIGHTS, ("2024-05-01_10-00", "2024-05-01_12-00")):
        folder = emotibit(tmp_path / names[1], names)
        with pytest.raises(UserError, match=r"prefix: the names up to the \"_\" are dates .*2024-05-01.*choose name"):
            ask_for_people(found(folder, participant_from="prefix"))


def test_the_command_asks_and_takes_the_rule_also_with_auto(tmp_path, capsys):
    root = tmp_path / "anna"
    for night in NIGHTS:
        (root / night).mkdir(parents=True)
        rows = "".join(f"{1714602611000000000 + 20000000 * k},0.01,0,0,0,0.6,{-0.8 + k % 3 / 100}\n" for k in range(40))
        header = "time,accelerationX,accelerationY,accelerationZ,gravityX,gravityY,gravityZ\n"
        (root / night / "WristMotion.csv").write_text(header + rows)
    for reader in ("auto", "sensor_logger"):
        command = [reader, str(root), "--out", str(tmp_path / reader), "--quiet", "--workers", "1"]
        assert main(command) == 2
        assert "choose --participant-from name (each of them is another person), or parent" in capsys.readouterr().err
        assert main([*command, "--participant-from", "parent"]) == 2  # the recordings are too short
        shown = capsys.readouterr()
        assert "makes all 2 recordings" in shown.out and "would be named" not in shown.err


def test_a_rule_that_a_reader_lacks_is_refused():
    assert stated_rule("plain", "folder") == "folder"
    with pytest.raises(UserError, match="--participant-from prefix: the reader 'plain' has auto, file, folder"):
        stated_rule("plain", "prefix")
    with pytest.raises(UserError, match="the reader 'troika' takes the participants from the recordings"):
        stated_rule("troika", "name")
