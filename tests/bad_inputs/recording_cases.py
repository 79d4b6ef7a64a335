"""Bad recordings of the readers in turn, with those of the E4 and of TROIKA."""

import io
import itertools
import random
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import scipy.io

from tests.bad_inputs import generic_cases
from tests.bad_inputs.bases import Bases
from tests.bad_inputs.case import Case
from tests.bad_inputs.damaged_recording import damaged
from tests.bad_inputs.mutations import GARBAGE, flip

_TRACE, _SIGNAL = "DATA_03_TYPE02_BPMtrace.mat", "DATA_03_TYPE02.mat"
_STARTS = ("abc", "", "-5", "0", "nan", "inf", "1e400", "1594149654000", "2020-07-07", "1e300")
_RATES = ("", "abc", "0", "-64", "nan", "inf", "1e400", "46", "1e9", "64;64", "64,64,64,64")
_CELLS = ("abc", "", "1e400", "inf", "1;2", "1,2,3,4", "0x1p", "--5", "1 2", '"', "1e39", "\x00")


def cases(rng: random.Random, bases: Bases) -> Iterator[Case]:
    """The readers in turn, without end."""
    kinds = [
        _e4,
        generic_cases.wrong_value,
        _troika,
        _e4,
        generic_cases.damaged_file,
        _e4_zip,
        generic_cases.wrong_value,
    ]
    seen = set()
    for kind in itertools.cycle(kinds):
        case = kind(rng, bases)
        if case.name not in seen:
            seen.add(case.name)
            yield case


def _lines(file: Path, change: Callable[[list[str]], list[str]]) -> None:
    file.write_text("\n".join(change(file.read_text().splitlines())) + "\n")


def _e4(rng: random.Random, bases: Bases) -> Case:
    file = rng.choice(("BVP.csv", "ACC.csv", "ACC.csv", "IBI.csv"))
    columns = {"BVP.csv": 1, "ACC.csv": 3, "IBI.csv": 2}[file]
    row = rng.randrange(2, 4000)
    edits: dict[str, Callable[[list[str]], list[str]]] = {}
    if file != "IBI.csv":
        start, rate = rng.choice(_STARTS), rng.choice(_RATES)
        edits |= {
            f"start {start!r}": lambda lines: [", ".join([start] * columns), *lines[1:]],
            f"rate {rate!r}": lambda lines: [lines[0], ", ".join([rate] * columns), *lines[2:]],
            "header lines exchanged": lambda lines: [lines[1], lines[0], *lines[2:]],
            "without headers": lambda lines: lines[2:],
            "without samples": lambda lines: lines[:2],
            "one header line": lambda lines: lines[:1],
            "a day later": lambda lines: [", ".join(["1594249654.00"] * columns), *lines[1:]],
        }
    else:
        start = rng.choice(("abc", "-5", "0", "nan", "1e400", ""))
        edits |= {
            f"start {start!r}": lambda lines: [f"{start}, IBI", *lines[1:]],
            "negative interval": lambda lines: [*lines[:9], lines[9].replace("0.833", "-0.833"), *lines[10:]],
        }
        row = rng.randrange(2, 100)
    cell = rng.choice(_CELLS)
    if not (file == "BVP.csv" and cell == "1,2,3,4") or columns == 1:
        edits[f"cell {cell!r} in line {row + 1}"] = lambda lines: [
            *lines[:row],
            ",".join([cell, *lines[row].split(",")[1:]]),
            *lines[row + 1 :],
        ]
    edits |= {
        f"line {row + 1} with a column more": lambda lines: [*lines[:row], lines[row] + ",5", *lines[row + 1 :]],
        f"blank line {row + 1}": lambda lines: [*lines[:row], "", *lines[row:]],
        "semicolons": lambda lines: [line.replace(",", ";") + ";" for line in lines],
    }
    if columns > 1:
        edits |= {
            f"line {row + 1} with a column less": lambda lines: [
                *lines[:row],
                lines[row].rpartition(",")[0],
                *lines[row + 1 :],
            ],
            "a column less": lambda lines: [line.rpartition(",")[0] for line in lines],
        }
    if file == "ACC.csv":
        edits["counts beyond the sensor"] = lambda lines: [*lines[:row], "1000000,0,0", *lines[row + 1 :]]
    if file == "BVP.csv":
        edits["nothing but NaN"] = lambda lines: [*lines[:2], *["NaN"] * (len(lines) - 2)]
    wholes: dict[str, Callable[[bytes], bytes | None]] = {
        "emptied": lambda content: b"",
        "garbage": lambda content: GARBAGE,
        "removed": lambda content: None,
        "garbage in the middle": lambda content: (
            content[:5000] + GARBAGE + content[5000:] if len(content) > 6000 else content[:900] + GARBAGE
        ),
        "utf-16": lambda content: content.decode().encode("utf-16"),
        "html": lambda content: b"<html><body>404</body></html>\n",
    }
    if file == "IBI.csv":  # it may be missing or empty
        del wholes["emptied"], wholes["removed"]
    how = rng.choice([*edits, *wholes])

    def damage(root: Path) -> None:
        path = root / "S01" / file
        if how in edits:
            _lines(path, edits[how])
            return
        content = wholes[how](path.read_bytes())
        path.unlink() if content is None else path.write_bytes(content)

    named = "{}/out|S01" if how in ("a day later",) else file
    return damaged("empatica_e4", bases.e4, f"{file} {how}", damage, named)


def _e4_zip(rng: random.Random, bases: Bases) -> Case:
    """A zip cut off, or damaged in what it holds."""
    at, member = rng.random(), rng.choice(("BVP.csv", "ACC.csv"))
    how = rng.choice(
        (
            f"cut at {at:.3f}",
            f"{member} damaged at {at:.3f}",
            "empty",
            f"without {member}",
            "a zip of a cut zip",
            "no zip",
        )
    )

    def damage(root: Path) -> None:
        files = {path.name: path.read_bytes() for path in (root / "S01").iterdir()}
        shutil.rmtree(root / "S01")
        if how.startswith("without"):
            del files[member]
        whole = _zip({} if how == "empty" else files)
        if how.startswith("cut"):
            whole = whole[: 1 + int(at * (len(whole) - 30))]
        elif how == "a zip of a cut zip":
            whole = _zip({"S01.zip": whole[: len(whole) // 2]})
        elif how == "no zip":
            whole = GARBAGE
        elif "damaged" in how:
            with zipfile.ZipFile(io.BytesIO(whole)) as archive:
                info = archive.getinfo(member)
            begin = info.header_offset + 30 + len(member)
            whole = flip(whole, (begin + at * (info.compress_size - 2)) / len(whole), 16)
        (root / "S01.zip").write_bytes(whole)

    return damaged("empatica_e4", bases.e4, f"zip {how}", damage, "{}/in" if how == "empty" else "S01")


def _zip(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _troika(rng: random.Random, bases: Bases) -> Case:
    file, variable = rng.choice(((_SIGNAL, "sig"), (_SIGNAL, "sig"), (_TRACE, "BPM0")))
    at = rng.random()
    signal = scipy.io.loadmat(bases.troika / file)[variable]
    arrays = {
        "text": "abc",
        "complex numbers": signal + 1j,
        "a cell": np.array([1, "a"], dtype=object),
        "a struct": {"x": 1},
        "infinite": np.where(np.arange(signal.shape[1]) == 0, np.inf, signal),
        "all NaN": np.full_like(signal, np.nan),
        "empty": signal[:, :0] if variable == "sig" else signal[:0],
        "huge": np.full_like(signal, 1e300),
    }
    if variable == "sig":
        arrays |= {
            "transposed": signal.T,
            "4 rows": signal[:4],
            "7 rows": np.vstack([signal, signal[:1]]),
            "three axes": signal[..., None],
            "one sample": signal[:, :1],
        }
    else:
        arrays |= {"negative": -signal, "zero": 0 * signal, "absurd": 1e6 * signal}
        del arrays["all NaN"], arrays["empty"]  # unknown everywhere, or nowhere known, is no fault
    contents: dict[str, Callable[[bytes], bytes]] = {
        f"cut at {at:.3f}": lambda content: content[: int(at * len(content))],
        f"damaged at {at:.3f}": lambda content: flip(content, (140 + at * (len(content) - 150)) / len(content), 32),
        "emptied": lambda content: b"",
        "garbage": lambda content: GARBAGE,
        "text": lambda content: b"1,2,3\n" * 99,
        "a newer MATLAB's": lambda content: b"MATLAB 7.3 MAT-file" + b" " * 105 + b"\x00\x02IM" + bytes(512),
        "without its variable": lambda content: _mat({"other": signal}),
    }
    how = rng.choice([*(f"{variable} {name}" for name in arrays), *contents])

    def damage(root: Path) -> None:
        path = root / file
        path.write_bytes(
            contents[how](path.read_bytes())
            if how in contents
            else _mat({variable: arrays[how.removeprefix(f"{variable} ")]})
        )

    return damaged(
        "troika", bases.troika, f"{file} {how}", damage, "{}/out|DATA_03_TYPE02" if how == "sig one sample" else file
    )


def _mat(content: dict) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, content)
    return buffer.getvalue()
