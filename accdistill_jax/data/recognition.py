"""Recognises recordings: which reader knows the files of a folder, and why."""

import os
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from accdistill_jax.data import recordings
from accdistill_jax.data.recordings import Found
from accdistill_jax.data.tree import Tree, ending, endings_text
from accdistill_jax.errors import UserError
from accdistill_jax.text import one_line, readable

PLAIN = "plain"
DESCRIBED = "generic"  # finds a recording only where the user has described it
TABLES = tuple(
    ending + packed
    for ending in (".csv", ".tsv", ".txt", ".parquet", ".pq")
    for packed in ("", ".gz", ".bz2", ".zst", ".lz4")
)
_TRIED = 3  # recordings of a reader that are loaded to see if it knows the content
_MOST_NAMED = 3
_LONGEST = 160  # characters of a reader's problem
_HINTS = {
    ".agd": "ActiGraph's epochs, which hold no raw acceleration: export .gt3x or the raw CSV",
    ".db": "a database, such as of Gadgetbridge: export CSV and use the reader plain or generic",
    ".fit": "activities of sports watches (Garmin, Coros, Suunto), which hold no raw acceleration",
    ".gpx": "a track, which holds no acceleration",
    ".h5": "HDF5: write CSV or Parquet and describe it for the reader generic",
    ".hdf5": "HDF5: write CSV or Parquet and describe it for the reader generic",
    ".json": "an export of a phone or a watch, such as of Fitbit or Google: write CSV and use the reader plain or generic",
    ".mat": "MATLAB of another set than bami, troika and wildppg: write CSV or Parquet and describe it for the reader generic",
    ".npy": "numpy: write CSV or Parquet and describe it for the reader generic",
    ".npz": "numpy: write CSV or Parquet and describe it for the reader generic",
    ".omx": "Open Movement's configuration: the raw data of Axivity is in .cwa",
    ".pkl": "a pickle of another set than ppg_dalia and wesad: write CSV or Parquet and describe it for the reader generic",
    ".sqlite": "a database: export CSV and use the reader plain or generic",
    ".tcx": "activities of sports watches, which hold no raw acceleration",
    ".wav": "audio, or Axivity's converted .cwa: prepare the .cwa itself",
    ".xls": "Excel: save it as CSV",
    ".xlsx": "Excel: save it as CSV",
    ".xml": "Apple Health's export, which holds no raw acceleration: record with Sensor Logger",
    ".zip": "archives: unpack them",
}


class Recognised(NamedTuple):
    """A reader, and in words why it is the right one."""

    reader: str
    why: str


class _Candidate(NamedTuple):
    """A reader that finds recordings, one `Found` for each root."""

    reader: str
    found: Sequence[Found]

    @property
    def claimed(self) -> frozenset[str]:
        return frozenset().union(*(found.claimed for found in self.found))


def recognise(
    roots: Sequence[str | os.PathLike[str]], options: Mapping[str, object] = MappingProxyType({})
) -> Recognised:
    """Finds the reader that knows all roots.

    A reader that is alone with files of a device's own format is right. If several find recordings, or the files are tables such as CSV,
    each has to load one of its first recordings.

    Args:
        roots: files and folders.
        options: options of a reader that the user gave; rate or unit alone mean the reader of tables that nobody described.

    Raises:
        UserError: no reader knows the files, or several do; the message says which one claims which files, or what was found.
    """
    plain_options = recordings.reader(PLAIN).options
    if options and options.keys() <= plain_options.keys():
        return Recognised(PLAIN, f"{' and '.join(options)} of a table given")
    addresses = [os.fspath(root) for root in roots if "://" in os.fspath(root)]
    if addresses:
        raise UserError(f"{addresses[0]}: only local files are recognised; choose the reader, or fetch the recordings")
    missing = [root for root in roots if not os.path.lexists(root)]
    if missing:
        raise UserError(f"{missing[0]}: no such file or folder")
    trees = [Tree(root) for root in roots]
    candidates = [one for name in recordings.names() if name != PLAIN and (one := _candidate(name, trees))]
    described = next((one for one in candidates if one.reader == DESCRIBED), None)
    if described:
        rest = [one for one in candidates if one is not described and not one.claimed <= described.claimed]
        able, _ = _able(rest)
        if not able:
            return Recognised(DESCRIBED, _words(described, {}))
        raise UserError(_several(roots, [described, *able]))
    if len(candidates) == 1 and not all(path.lower().endswith(TABLES) for path in candidates[0].claimed):
        return Recognised(candidates[0].reader, _words(candidates[0], {}))
    able, problems = _able(candidates)
    if not able and _is_table(roots, trees) and (plain := _candidate(PLAIN, trees)):
        able, plain_problems = _able([plain])
        problems |= plain_problems
    if len(able) == 1:
        return Recognised(able[0].reader, _words(able[0], problems))
    if able:
        raise UserError(_several(roots, able))
    if problems:
        tried = "; ".join(f"{name}: {problem}" for name, problem in problems.items())
        raise UserError(
            f"{_shown(roots)}: no reader knows these files. Those that know the ending: {tried}. {_advice(trees)}"
        )
    raise UserError(f"{_shown(roots)}: no reader knows these files. {_advice(trees)}")


def _candidate(name: str, trees: Sequence[Tree]) -> _Candidate | None:
    try:
        return _Candidate(name, [recordings.find(name, tree) for tree in trees])
    except UserError:
        return None


def _able(candidates: Iterable[_Candidate]) -> tuple[list[_Candidate], dict[str, str]]:
    """The readers that load one of their first recordings, and the problem of each of the others."""
    able, problems = [], {}
    for one in candidates:
        sources = [source for found in one.found for source in found][:_TRIED]
        for source in sources:
            try:
                source.load()
            except UserError as error:
                problems.setdefault(one.reader, _shortened(str(error), one))
            except Exception as error:  # a fault in the file that the reader does not foresee
                problems.setdefault(one.reader, _shortened(f"{type(error).__name__}: {error}", one))
            else:
                problems.pop(one.reader, None)
                able.append(one)
                break
    return able, problems


def _shortened(problem: str, one: _Candidate) -> str:
    """A problem in a line, with the file's name in place of its path."""
    for path in one.claimed:
        problem = problem.replace(path, os.path.basename(path))
    text = one_line(problem)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def _is_table(roots: Sequence[str | os.PathLike[str]], trees: Sequence[Tree]) -> bool:
    """False if a root is a file of another ending than a table's, which the reader plain would also try."""
    return all(
        not tree.root.is_file() or os.fspath(root).lower().endswith(TABLES)
        for root, tree in zip(roots, trees, strict=True)
    )


def _files(one: _Candidate) -> str:
    """Text such as "6 files, such as S01/ACC.csv"."""
    claimed = sorted(one.claimed)
    first = claimed[0] if claimed else one.found[0][0].recording_id
    return f"{len(claimed)} file{'' if len(claimed) == 1 else 's'}, such as {readable(os.path.join(*first.split(os.sep)[-2:]))}"


def _words(one: _Candidate, problems: Mapping[str, str]) -> str:
    count = sum(map(len, one.found))
    others = "".join(f"; not {name}: {problem}" for name, problem in list(problems.items())[:_MOST_NAMED])
    return f"it finds {count} recording{'' if count == 1 else 's'} in {_files(one)}{others}"


def _several(roots: Sequence[str | os.PathLike[str]], able: Sequence[_Candidate]) -> str:
    claims = "; ".join(f"{one.reader} ({_files(one)})" for one in able)
    return f"{_shown(roots)}: several readers know files there: {claims}. Choose the reader, or give the folders apart"


def _shown(roots: Sequence[str | os.PathLike[str]]) -> str:
    return f"{', '.join(readable(os.fspath(root)) for root in roots[:_MOST_NAMED])}{' ...' if len(roots) > _MOST_NAMED else ''}"


def _advice(trees: Sequence[Tree]) -> str:
    """The endings in the folders, the devices that these may be, and advice."""
    counts: dict[str, int] = {}
    for tree in trees:
        for file in tree.files:
            counts[ending(file.name)] = counts.get(ending(file.name), 0) + 1
    hints = "".join(
        f" {name} may be {_HINTS[name]}." for name in sorted(counts, key=lambda n: -counts[n]) if name in _HINTS
    )
    return f"Found: {endings_text(counts)}.{hints} Choose the reader (accdistill prepare --help lists them), or describe the files for the reader generic"
