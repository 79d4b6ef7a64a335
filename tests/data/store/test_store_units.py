"""Staged units: every flipped bit and every cut is noticed, or changes nothing of what is read."""

import io
import random
import struct

import numpy as np
import pytest

from accdistill_jax.data.store.units import Unit, decode_unit, encode_unit
from accdistill_jax.data.store.writer import StoreWriter
from accdistill_jax.errors import UserError
from accdistill_jax.storage.checked_npz import DamagedNpz

SAMPLES = 640


@pytest.fixture
def content(make_batch) -> bytes:
    return encode_unit("anna", make_batch("anna", 2), samples=SAMPLES)


def earlier(content: bytes) -> bytes:
    """The same unit as earlier versions wrote it: without the checksum."""
    return content[:-73] + b"\0\0"


def read(content: bytes) -> Unit:
    return decode_unit(io.BytesIO(content), signals=True)


def everything(unit: Unit) -> dict:
    arrays = {**unit.columns, **unit.arrays}
    return {"about": unit.about} | {name: (value.dtype, value.shape, value.tobytes()) for name, value in arrays.items()}


def directory(content: bytes) -> int:
    """Where the archive's directory begins."""
    end = content.rindex(b"PK\5\6")
    return struct.unpack("<I", content[end + 16 : end + 20])[0]


@pytest.mark.parametrize("form", [bytes, earlier])
def test_what_was_written_is_read(content, make_batch, form):
    unit, batch = read(form(content)), make_batch("anna", 2)
    assert unit.about["segments"] == 2 and set(unit.arrays) == {
        f"{signal}{part}" for signal in ("ppg", "accel") for part in ("", "_scale", "_offset")
    }
    signal = unit.arrays["ppg_offset"][:, None] + unit.arrays["ppg_scale"][:, None] * unit.arrays["ppg"]
    np.testing.assert_allclose(signal, batch.ppg, atol=0.01)


@pytest.mark.parametrize("form", [bytes, earlier])
def test_a_flipped_bit_is_noticed_or_changes_nothing(content, form):
    """All of the directory, where bits can lose an array without a word, and some of the rest."""
    content, rng = form(content), random.Random(0)
    expected, begin = everything(read(content)), directory(content)
    places = [(at, rng.randrange(8)) for at in range(begin, len(content))]
    places += [(rng.randrange(begin), rng.randrange(8)) for _ in range(300)]
    noticed = 0
    for at, bit in places:
        flipped = bytearray(content)
        flipped[at] ^= 1 << bit
        try:
            assert everything(read(bytes(flipped))) == expected, (at, bit)
        except DamagedNpz:
            noticed += 1
    assert noticed > (0.99 if form is bytes else 0.6) * len(places)


@pytest.mark.parametrize("left", [0, 21, 22, 300, -1, -22, -64, -71, -73, -93, -400])
def test_a_cut_is_noticed(content, left):
    with pytest.raises(DamagedNpz):
        read(content[:left])


def test_a_unit_without_one_of_its_arrays_is_damaged(content):
    with np.load(io.BytesIO(content)) as whole:
        arrays = {name: whole[name] for name in whole.files}
    for changed in (
        {name: value for name, value in arrays.items() if name != "accel_scale"},
        arrays | {"accel_scale": arrays["accel_scale"][:1]},
        arrays | {"ppg": arrays["ppg"].astype(np.int32)},
        arrays | {"more": arrays["ppg"]},
        arrays | {"column_crc32": arrays["column_crc32"][::-1]},
    ):
        buffer = io.BytesIO()
        np.savez(buffer, **changed)
        with pytest.raises(DamagedNpz):
            read(buffer.getvalue())


@pytest.mark.parametrize("people", [["a", "b"], ["a"]])
def test_a_lost_scale_makes_no_store(make_batch, settings, tmp_path, people):
    """The bit that let every later segment have the scale of another person, and a unit in another one's place."""
    writer = StoreWriter(tmp_path / "s", settings=settings, source="x")
    for person in people:
        writer.add(person, make_batch(person, 2))
    file = next((tmp_path / "s.partial/units").glob("a-*"))
    content = bytearray(file.read_bytes())
    entry = content.index(b"PK\1\2", directory(content))
    content[entry + 30] ^= 64  # the first entry's extra field, which swallows those that follow
    file.write_bytes(content)
    with pytest.raises(UserError, match="staged unit a was damaged and is removed; run the same command again"):
        writer.commit(people)
    assert not writer.has("a") and not (tmp_path / "s").exists()


def test_a_unit_in_the_place_of_another_is_damaged(make_batch, settings, tmp_path):
    writer = StoreWriter(tmp_path / "s", settings=settings, source="x")
    for person in ("a", "b"):
        writer.add(person, make_batch(person, 2))
    [one], [other] = ((tmp_path / "s.partial/units").glob(f"{person}-*") for person in "ab")
    other.write_bytes(one.read_bytes())
    with pytest.raises(UserError, match="staged unit b was damaged and is removed"):
        writer.commit(["a", "b"])


def test_a_damaged_unit_is_told_before_what_it_seems_to_say(make_batch, settings, tmp_path):
    """Where units do not fit together, their damage is looked for first."""
    writer = StoreWriter(tmp_path / "s", settings=settings, source="x")
    writer.add("a", make_batch("a", 2))
    writer.add("b", make_batch("b", 2, channels=1))
    file = next((tmp_path / "s.partial/units").glob("b-*"))
    content = bytearray(file.read_bytes())
    content[-80] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="staged unit b was damaged"):
        writer.commit(["a", "b"])


def test_what_is_no_file_in_a_unit_s_place_is_named(make_batch, settings, tmp_path):
    writer = StoreWriter(tmp_path / "s", settings=settings, source="x")
    writer.add("a", make_batch("a", 2))
    [file] = (tmp_path / "s.partial/units").iterdir()
    file.unlink()
    file.symlink_to("/dev/zero")
    with pytest.raises(UserError, match=r"a-.*npz: cannot be read \(not a regular file\)"):
        writer.commit(["a"])
