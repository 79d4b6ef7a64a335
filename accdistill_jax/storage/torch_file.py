"""Reads tensors from PyTorch's files (`torch.save`) without PyTorch. Nothing that a file's pickle names is ever called.

A file is a zip archive, not compressed: `data.pkl` describes the containers, and `data/<key>` holds the bytes of each storage.
The few constructors that such a pickle needs are replaced by stand-ins, which keep their arguments; the arrays are made from
these after a check of types, sizes and strides. Any other name in the pickle is refused.
"""

import math
import pickle
import zipfile
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np

from accdistill_jax.errors import UserError
from accdistill_jax.files import open_regular

_BFLOAT16 = "bfloat16"
_DTYPES = {
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "BFloat16Storage": _BFLOAT16,
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
_MOST_DIMENSIONS = 8
_MOST_PICKLE_BYTES = 64 * 2**20
_LEGACY = "files of PyTorch before 1.6 are not read; load and save the file once with a newer PyTorch"


class _StorageType(NamedTuple):
    dtype: str


class _Storage(NamedTuple):
    dtype: str
    key: str
    count: int


class _Tensor(NamedTuple):
    storage: Any
    offset: Any
    size: Any
    stride: Any


class _Items(dict):
    """Stands for collections.OrderedDict; attributes that a pickle sets are dropped."""

    def __setstate__(self, state: object) -> None:
        return


class _Opaque:
    """Stands for a value that no caller needs."""

    def __init__(self, *_: object):
        return

    def __setstate__(self, state: object) -> None:
        return


def _tensor(storage: object, offset: object, size: object, stride: object, *_: object) -> _Tensor:
    return _Tensor(storage, offset, size, stride)


def _parameter(tensor: object, *_: object) -> object:
    return tensor


_STAND_INS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Items,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("numpy", "dtype"): _Opaque,
    ("_codecs", "encode"): _Opaque,
    ("numpy.core.multiarray", "scalar"): _Opaque,
    ("numpy._core.multiarray", "scalar"): _Opaque,
    **{("torch", name): _StorageType(dtype) for name, dtype in _DTYPES.items()},
}


class _TensorUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str, /) -> Any:
        try:
            return _STAND_INS[module, name]
        except KeyError:
            raise UserError(
                f"its pickle asks for {module}.{name}, but only tensors and plain containers are read: save the model's state_dict "
                "alone, and do not open a file that you do not trust with torch.load"
            ) from None

    def persistent_load(self, pid: Any, /) -> Any:
        match pid:
            case ("storage", _StorageType(dtype), str(key), str(), int(count)) if count >= 0:
                return _Storage(dtype, key, count)
        raise UserError(f"it refers to {str(pid)[:80]}, which is no storage of numbers")


def read_torch_file(path: str) -> Any:
    """Reads a file of `torch.save`.

    Args:
        path: the file.

    Returns:
        The saved containers, with numpy arrays in place of tensors; bfloat16 becomes float32.

    Raises:
        UserError: the file is missing, damaged, of an older format, or holds other things than tensors and plain containers.
    """
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            return _read(archive)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except zipfile.BadZipFile as error:
        raise UserError(f"{path}: no file of torch.save in the zip format ({error}); {_LEGACY}") from error
    except MemoryError:
        raise UserError(f"{path}: asks for more memory than there is; copy it again") from None
    except Exception as error:  # a damaged pickle or archive raises any exception
        raise UserError(f"{path}: cannot be read ({str(error) or type(error).__name__}); copy it again") from error


def _read(archive: zipfile.ZipFile) -> Any:
    entries = {entry.filename: entry for entry in archive.infolist()}
    pickles = [name for name in entries if name.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        raise UserError("it holds no data.pkl: it is no file of torch.save (TorchScript archives are not read)")
    folder = pickles[0].removesuffix("data.pkl")
    if entries[pickles[0]].file_size > _MOST_PICKLE_BYTES:
        raise UserError("its pickle is too large for a description of tensors")
    order = _member(archive, entries, f"{folder}byteorder") if f"{folder}byteorder" in entries else b"little"
    content = _TensorUnpickler(BytesIO(_member(archive, entries, pickles[0]))).load()
    storages: dict[str, bytes] = {}

    def array(tensor: _Tensor) -> np.ndarray:
        storage = tensor.storage
        if not isinstance(storage, _Storage):
            raise UserError("a tensor has no storage; copy the file again")
        name = f"{folder}data/{storage.key}"
        if storage.key not in storages:
            if name not in entries:
                raise UserError(f"the bytes {name} are missing; copy the file again")
            storages[storage.key] = _member(archive, entries, name)
        return _array(tensor, storage, storages[storage.key], ">" if order == b"big" else "<")

    return _converted(content, array)


def _member(archive: zipfile.ZipFile, entries: Mapping[str, zipfile.ZipInfo], name: str) -> bytes:
    if entries[name].compress_type != zipfile.ZIP_STORED:
        raise UserError(f"{name} is compressed, which torch.save never does")
    return archive.read(entries[name])


def _array(tensor: _Tensor, storage: _Storage, raw: bytes, order: str) -> np.ndarray:
    size, stride, offset = tensor.size, tensor.stride, tensor.offset
    numbers = (*size, *stride, offset) if isinstance(size, tuple) and isinstance(stride, tuple) else (-1,)
    if len(size) != len(stride) or len(size) > _MOST_DIMENSIONS or not all(type(n) is int and n >= 0 for n in numbers):
        raise UserError("a tensor has an impossible shape; copy the file again")
    dtype = np.dtype(f"{order}u2" if storage.dtype == _BFLOAT16 else f"{order}{storage.dtype}")
    if len(raw) != storage.count * dtype.itemsize:
        raise UserError(
            f"storage {storage.key} has {len(raw)} bytes instead of {storage.count * dtype.itemsize}; copy it again"
        )
    values = np.frombuffer(raw, dtype)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if math.prod(size) and last >= storage.count or math.prod(size) > max(storage.count, 1):
        raise UserError(f"a tensor of shape {size} does not fit its storage; copy the file again")
    steps = [step * dtype.itemsize for step in stride]
    start = values[offset:] if math.prod(size) else np.empty(0, dtype)
    copied = np.lib.stride_tricks.as_strided(start, size, steps).copy()
    if storage.dtype == _BFLOAT16:
        return (copied.astype(np.uint32) << 16).view(np.float32)
    return copied.astype(dtype.newbyteorder("="), copy=False)


def _converted(value: Any, array: Callable[[_Tensor], np.ndarray], depth: int = 0) -> Any:
    """The value with arrays in place of tensors."""
    if depth > 50:
        raise UserError("its containers are nested too deeply")
    if isinstance(value, _Tensor):
        return array(value)
    if isinstance(value, dict):
        return {key: _converted(item, array, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_converted(item, array, depth + 1) for item in value]
    return None if isinstance(value, (_Opaque, _Storage, _StorageType)) else value


def state_dict(
    content: Any, *, path: str, keys: tuple[str, ...] = ("net", "state_dict", "model")
) -> dict[str, np.ndarray]:
    """The arrays of a model by name, from a file's content.

    Args:
        content: of `read_torch_file`.
        path: the file, for messages.
        keys: names under which training programs keep the model among other things.

    Returns:
        Name -> array; the prefix "module." of a model trained on several devices is left out.

    Raises:
        UserError: there are no named arrays.
    """
    for key in keys:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    arrays = (
        {name: value for name, value in content.items() if isinstance(value, np.ndarray)}
        if isinstance(content, dict)
        else {}
    )
    if not arrays or not all(isinstance(name, str) for name in arrays):
        raise UserError(f"{path}: it holds no state_dict, arrays by name; save model.state_dict()")
    return {name.removeprefix("module."): value for name, value in arrays.items()}
