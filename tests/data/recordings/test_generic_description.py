"""Descriptions of recordings: names keep their text, numbers are decimal, and no value changes its meaning."""

import json
import os
import time

import pytest

from accdistill_jax.data.recordings import find, generic
from accdistill_jax.data.recordings.tables import description as description_lib
from accdistill_jax.errors import UserError

NAMES = [
    "007",
    "010",
    "012",
    "8",
    "12_3",
    "1.10",
    "1e3",
    "0x1F",
    "0o17",
    "yes",
    "no",
    "on",
    "1:30",
    "2024-05-01",
    ".5",
    "+5",
    "'null'",
]


def read(folder, text, suffix="yaml"):
    path = folder / f"recording.{suffix}"
    path.write_text(text)
    return description_lib.read(path)


@pytest.mark.parametrize("name", NAMES)
def test_names_keep_their_text(tmp_path, name):
    content = read(
        tmp_path,
        f"participant: {name}\ndevice: {name}\nstreams: {{ppg: {{file: {name}, columns: [x, {name}]}}}}\n"
        f"beats: {{time: {name}}}\nwho: {{id: {name}, conditions: {{{name}: true}}}}\n",
    )
    text = name.strip("'")
    assert (
        content["participant"] == content["device"] == content["streams"]["ppg"]["file"] == content["who"]["id"] == text
    )
    assert list(content["who"]["conditions"]) == [text]
    column = 8 if name == "8" else text  # columns are names or numbers from 0
    assert content["beats"]["time"] == content["streams"]["ppg"]["columns"][1] == column


def test_people_whose_names_look_like_numbers_stay_apart(tmp_path):
    for name in ("007", "010", "8", "012", "7", "10"):
        (tmp_path / f"rec{name}").mkdir()
        (tmp_path / f"rec{name}" / "recording.yaml").write_text(f"participant: {name}\n")
    assert [s.participant_id for s in find("generic", tmp_path)] == ["007", "010", "012", "10", "7", "8"]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("64", 64),
        ("-5", -5),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("1_000", 1000),
        ("yes", True),
        ("false", False),
        ("064", "064"),
        ("0x10", "0x10"),
        ("1:30", "1:30"),
        ("0o10", "0o10"),
    ],
)
def test_numbers_are_decimal(tmp_path, written, value):
    got = read(tmp_path, f"rate_hz: {written}")["rate_hz"]
    assert got == value and type(got) is type(value)


def test_a_number_that_yaml_would_read_as_octal_is_an_error(tmp_path):
    with pytest.raises(UserError, match="streams.ppg.rate_hz must be a number, got '064'"):
        description_lib.number_at(read(tmp_path, "rate_hz: 064"), "rate_hz", "streams.ppg")
    with pytest.raises(UserError, match="rate_hz must be a number of at most 300 digits"):
        description_lib.number_at(read(tmp_path, "rate_hz: 1" + 400 * "0"), "rate_hz", "streams.ppg")


@pytest.mark.parametrize("written", ["null", "~", "", "{id: null}", "''", "[a]"])
def test_no_participant_is_an_error(tmp_path, written):
    (tmp_path / "recording.yaml").write_text(f"participant: {written}\nstreams: {{}}\n")
    (source,) = find("generic", tmp_path)
    with pytest.raises(UserError, match="participant must be an id .* put quotes around an id"):
        source.load()


def test_a_json_id_that_is_a_fraction_is_an_error(tmp_path):
    (tmp_path / "recording.json").write_text('{"participant": {"id": 1.10}, "streams": {}}')  # JSON reads it as 1.1
    (source,) = find("generic", tmp_path)
    with pytest.raises(UserError, match="participant must be an id"):
        source.load()
    assert description_lib.read(tmp_path / "recording.json")["participant"] == {"id": 1.1}
    (tmp_path / "recording.json").write_text(json.dumps({"participant": "007"}))
    assert find("generic", tmp_path)[0].participant_id == "007"


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        ("yaml", "participant: a\nparticipant: b\n"),
        ("yaml", "participant: a\nstreams:\n  ppg: {}\n  ppg: {}\n"),
        ("json", '{"participant": "a", "participant": "b"}'),
        ("json", '{"streams": {"ppg": 1, "ppg": 2}}'),
    ],
)
def test_a_key_given_twice_is_an_error(tmp_path, suffix, text):
    with pytest.raises(UserError, match=f"recording.{suffix}: (line [24]: )?the key '(participant|ppg)' occurs twice"):
        read(tmp_path, text, suffix)


def test_aliases_merges_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "recording.yaml"
    path.write_bytes("﻿base: &b {file: 010, rate_hz: 50}\nstreams: {ppg: {<<: *b, unit: g}, accel: *b}\n".encode())
    streams = description_lib.read(path)["streams"]
    assert streams == {"ppg": {"file": "010", "rate_hz": 50, "unit": "g"}, "accel": {"file": "010", "rate_hz": 50}}
    with pytest.raises(UserError, match="must be a mapping"):
        read(tmp_path, "&a [*a]\n")


def bomb(levels: int = 9, width: int = 9) -> str:
    lines = ["a0: &a0 [x, x, x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * width)}]" for level in range(1, levels + 1)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    "text",
    [
        bomb() + "participant: *a9\nstreams: {}\n",
        bomb() + "participant: p\nstreams: *a9\n",
        "a: &a {x: 1}\n"
        + "".join(f"b{n}: &b{n} {{<<: [{', '.join([f'*b{n - 1}' if n else '*a'] * 20)}]}}\n" for n in range(8))
        + "streams: *b7\n",
        "participant: &p [*p]\nstreams: *p\n",
        "streams: " + "[" * 100_000,
        "a: " * 1000 + "\n",
        "participant: p\n" + "x" * 300_000,
        "participant: {id: p, age_years: " + "9" * 5000 + "}\nstreams: {}\n",
        "participant: p\0q\nstreams: {}\n",
        "&a" * 50_000,
    ],
    ids=[
        "lists as participant",
        "lists as streams",
        "merges",
        "itself",
        "deep",
        "deep keys",
        "long",
        "digits",
        "NUL",
        "anchors",
    ],
)
def test_a_description_that_is_a_bomb_is_one_line(tmp_path, text):
    path = tmp_path / "recording.yaml"
    path.write_text(text)
    began = time.monotonic()
    with pytest.raises(UserError) as caught:
        generic.load(path, "r")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 10_000
    assert time.monotonic() - began < 20


def test_a_description_that_never_ends_is_named(tmp_path):
    path = tmp_path / "recording.yaml"
    path.symlink_to("/dev/zero")
    with pytest.raises(UserError, match="recording.yaml: .*not a regular file"):
        generic.load(path, "r")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="recording.yaml: .*not a regular file"):
        generic.load(path, "r")
