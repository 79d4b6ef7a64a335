"""Restricted pickles: arrays of every kind, and malicious and damaged files."""

import io
import os
import pickle
import pickletools

import numpy as np
import pytest

from accdistill_jax.data.recordings.common.pickles import pickled_array, pickled_item, pickled_number, read_pickle
from accdistill_jax.errors import UserError


class Malicious:
    """Runs a command when a usual unpickler reads it."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def read(folder, content):
    path = folder / "S2.pkl"
    path.write_bytes(content)
    return read_pickle(path)


def python_2_pickle(array):
    """The bytes that Python 2 wrote for {"signal": array}: byte strings without a type of their own."""
    shape = b"".join(b"K" + bytes([n]) for n in array.shape)
    tuple_of = {1: b"\x85", 2: b"\x86"}[array.ndim]
    raw = array.tobytes()
    return (
        b"\x80\x02}U\x06signalcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
        + shape
        + tuple_of
        + b"cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + len(raw).to_bytes(4, "little")
        + raw
        + b"tbs."
    )


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.int16([[-3], [400]]),
        np.zeros((0, 3)),
    ],
)
def test_arrays_are_read(tmp_path, protocol, array):
    content = read(tmp_path, pickle.dumps({"signal": {"wrist": {"BVP": array}}, "n": np.float64(2.5)}, protocol))
    found = pickled_array(content, "signal", "wrist", "BVP")
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)
    assert pickled_number(content, "n") == 2.5


def test_python_2_pickles_are_read(tmp_path):
    array = np.random.default_rng(0).normal(size=(7, 3))
    np.testing.assert_array_equal(pickled_array(read(tmp_path, python_2_pickle(array)), "signal"), array)


def test_keys_may_hold_spaces_and_may_be_missing(tmp_path):
    content = read(tmp_path, pickle.dumps({" AGE ": 34, "sex": " m"}))
    assert pickled_number(content, "AGE") == 34 and pickled_item(content, "sex") == " m"
    assert (
        pickled_item(content, "height") is None
        and pickled_number(content, "sex") is None
        and pickled_number(content, "x", "y") is None
    )


@pytest.mark.parametrize(
    "item",
    [
        lambda place: Malicious(os.system, f"touch {place}"),
        lambda place: Malicious(eval, f"open({str(place)!r}, 'w')"),
        lambda place: Malicious(open, str(place), "w"),
        lambda place: Malicious(os.mkdir, str(place)),
        lambda place: Malicious(np.save, str(place), 1),
        lambda place: Malicious(exec, f"open({str(place)!r}, 'w')"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_nothing_in_a_pickle_runs(tmp_path, item, protocol):
    place = tmp_path / "written"
    content = pickle.dumps({"signal": np.arange(3.0), "subject": item(place)}, protocol)
    with pytest.raises(
        UserError, match=r"S2.pkl: its pickle asks for .+, but only numbers and plain containers are read"
    ):
        read(tmp_path, content)
    assert not place.exists()
    pickle.loads(pickle.dumps(Malicious(os.mkdir, str(place))))  # a usual unpickler does run it
    assert place.exists()


def test_stand_ins_lead_to_no_other_function(tmp_path):
    # The call of a stand-in with arguments of the attacker's choice returns a harmless object.
    stream = b"\x80\x02cnumpy\ndtype\n(X\x02\x00\x00\x00osX\x06\x00\x00\x00systemtR."
    assert not callable(read(tmp_path, stream))
    for name in ("numpy\nload", "numpy.core.multiarray\nfromfile", "_codecs\nlookup", "builtins\neval", "os\nsystem"):
        with pytest.raises(UserError, match="its pickle asks for"):
            read(tmp_path, b"\x80\x02c" + name.encode() + b"\n.")
    with pytest.raises(UserError, match="cannot be read as a pickle"):
        read(tmp_path, pickle.dumps(Malicious(__import__("_codecs").encode, "a" * 99, "zip"), 2))


@pytest.mark.parametrize(
    "array",
    [np.array([{}, []], object), np.array(["text"]), np.zeros(3, "f8,i4"), np.zeros(2, "M8[s]"), np.zeros(2, complex)],
)
def test_arrays_of_other_things_are_refused(tmp_path, array):
    content = read(tmp_path, pickle.dumps({"signal": array}, 2))
    with pytest.raises(UserError, match="'signal': an array of the type .* is not read, only numbers"):
        pickled_array(content, "signal")


def test_an_array_that_does_not_fit_its_bytes_is_refused(tmp_path):
    whole = python_2_pickle(np.zeros((7, 3)))
    for old, new in ((b"K\x07K\x03\x86", b"K\x09K\x03\x86"), (b"K\x07K\x03\x86", b"NK\x03\x86")):
        assert old in whole
        with pytest.raises(UserError, match="'signal': an array .*; copy the file again"):
            pickled_array(read(tmp_path, whole.replace(old, new)), "signal")


def test_cut_off_and_damaged_pickles_are_named(tmp_path):
    whole = pickle.dumps({"signal": {"wrist": {"BVP": np.arange(100.0)}}}, 2)
    for length in (0, 1, 30, 100, len(whole) - 1):
        with pytest.raises(UserError, match=r"S2.pkl: (cannot be read as a pickle|its pickle asks for)"):
            read(tmp_path, whole[:length])
    rng = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole) - 820)] = rng.integers(256)
        try:
            pickled_array(read(tmp_path, bytes(damaged)), "signal", "wrist", "BVP")
        except UserError:
            pass


def test_a_length_beyond_the_memory_is_named(tmp_path):
    stream = b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b"abc."
    with pytest.raises(UserError, match="S2.pkl: asks for more memory than there is"):
        read(tmp_path, stream)


def test_the_bases_are_pickles_of_protocol_2():
    text = io.StringIO()
    pickletools.dis(python_2_pickle(np.zeros((7, 3))), text)
    assert "highest protocol among opcodes = 2" in text.getvalue()
