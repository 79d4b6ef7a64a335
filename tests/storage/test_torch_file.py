"""PyTorch files without PyTorch: equal arrays; nothing in a hostile file runs; damage is a line."""

import collections
import os
import pickle
import zipfile

import numpy as np
import pytest

from accdistill_jax.errors import UserError
from accdistill_jax.storage.torch_file import read_torch_file, state_dict

torch = pytest.importorskip("torch")


@pytest.fixture
def saved(tmp_path):
    """Path of a checkpoint as training programs write it, and its tensors."""
    torch.manual_seed(0)
    whole = torch.randn(4, 6)
    tensors = {
        "w": whole,
        "view": whole[1:3, ::2],
        "turned": whole.T,
        "half": torch.randn(3).half(),
        "brain": torch.randn(5).bfloat16(),
        "double": torch.randn(2, dtype=torch.float64),
        "count": torch.tensor(7),
        "flags": torch.tensor([True, False]),
        "empty": torch.empty(0, 3),
    }
    model = torch.nn.Linear(3, 2)
    model.register_parameter("more", torch.nn.Parameter(torch.ones(2)))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    content = {
        "net": collections.OrderedDict(tensors) | {"module.layer": torch.ones(2)},
        "optimizer": optimizer.state_dict(),
        "parameter": model.more,
        "test_loss": np.float64(0.5),
        "epoch": 3,
    }
    torch.save(content, tmp_path / "c.pt")
    return str(tmp_path / "c.pt"), tensors


def test_arrays_are_those_of_torch(saved):
    path, tensors = saved
    content = read_torch_file(path)
    arrays = state_dict(content, path=path)
    for name, tensor in tensors.items():
        expected = tensor.float().numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()
        assert arrays[name].dtype == expected.dtype
        np.testing.assert_array_equal(arrays[name], expected)
    assert arrays["layer"].tolist() == [1, 1] and content["epoch"] == 3
    assert content["parameter"].tolist() == [1, 1] and content["optimizer"]["state"][0]["step"] == 1


def test_a_state_dict_alone_is_read(tmp_path):
    model = torch.nn.BatchNorm1d(3)
    torch.save(model.state_dict(), tmp_path / "s.pt")
    arrays = state_dict(read_torch_file(str(tmp_path / "s.pt")), path="s.pt")
    assert arrays["running_var"].tolist() == [1, 1, 1]
    with pytest.raises(UserError, match="x: it holds no state_dict"):
        state_dict([1, 2], path="x")


class Hostile:
    """Writes a file when it is unpickled."""

    def __init__(self, path, call=os.system):
        self.path, self.call = path, call

    def __reduce__(self):
        return self.call, (f"touch {self.path}",)


def archive_of(path, content: bytes, **members: bytes) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        for name, data in members.items():
            archive.writestr(f"archive/{name.replace('__', '/')}", data)
    return str(path)


@pytest.mark.parametrize("call", [os.system, eval, exec, __import__])
def test_nothing_in_a_hostile_file_runs(tmp_path, call):
    hostile = {"net": {"w": torch.ones(2), "x": Hostile(tmp_path / "made", call)}}
    torch.save(hostile, tmp_path / "h.pt")
    with pytest.raises(UserError, match=r"h.pt: its pickle asks for \w+.\w+, but only tensors") as caught:
        read_torch_file(str(tmp_path / "h.pt"))
    assert not (tmp_path / "made").exists() and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"cos\nsystem\n(S'touch made'\ntR.",
        b"cbuiltins\ngetattr\n(ccollections\nOrderedDict\nS'__init__'\ntR.",
        b"ctorch\nload\n(S'made'\ntR.",
        b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n.",
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\ntouch made\x85R.",
    ],
)
def test_hostile_opcodes_are_refused(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError):
        read_torch_file(archive_of(tmp_path / "h.pt", content))
    assert not (tmp_path / "made").exists()


def test_a_whole_model_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "m.pt")
    with pytest.raises(UserError, match="asks for torch.nn.modules.linear.Linear, but only tensors .*state_dict alone"):
        read_torch_file(str(tmp_path / "m.pt"))


def test_storages_that_lie_are_refused(saved, tmp_path):
    path, _ = saved
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        parts = {name: archive.read(name) for name in names}
    storage = next(name for name in names if name.endswith("data/0"))
    for change in (parts[storage][:-4], None):
        with zipfile.ZipFile(tmp_path / "l.pt", "w") as archive:
            for name in names:
                if name != storage or change is not None:
                    archive.writestr(name, change if name == storage else parts[name])
        with pytest.raises(UserError, match="has 92 bytes instead of 96|are missing"):
            read_torch_file(str(tmp_path / "l.pt"))


def test_a_tensor_beyond_its_storage_is_refused(tmp_path):
    """A view whose size was raised in the pickle: it must not read foreign memory."""
    torch.save({"w": torch.ones(24).reshape(4, 6)[:, :1]}, tmp_path / "v.pt")
    with zipfile.ZipFile(tmp_path / "v.pt") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    (name,) = (name for name in parts if name.endswith("data.pkl"))
    parts[name] = parts[name].replace(b"K\x04K\x01\x86", b"K\xffK\x01\x86")
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        for member, data in parts.items():
            archive.writestr(member, data)
    with pytest.raises(UserError, match=r"a tensor of shape \(255, 1\) does not fit its storage"):
        read_torch_file(str(tmp_path / "w.pt"))


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda path: path.write_bytes(pickle.dumps({"w": 1})), "no file of torch.save in the zip format .*before 1.6"),
        (lambda path: path.write_bytes(b""), "no file of torch.save in the zip format"),
        (lambda path: archive_of(path, b"garbage"), "cannot be read"),
        (lambda path: zipfile.ZipFile(path, "w").close(), "it holds no data.pkl"),
        (lambda path: None, "cannot be read .No such file"),
    ],
)
def test_damaged_files_are_a_line(tmp_path, make, line):
    make(tmp_path / "d.pt")
    with pytest.raises(UserError, match=line):
        read_torch_file(str(tmp_path / "d.pt"))


def test_a_compressed_archive_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "z.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
    with pytest.raises(UserError, match="is compressed, which torch.save never does"):
        read_torch_file(str(tmp_path / "z.pt"))
