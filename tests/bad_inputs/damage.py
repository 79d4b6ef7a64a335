"""Damages every kind of file that the program writes, and kills the program while it writes them.

    python -m tests.bad_inputs.damage --count 3000 --seed 0 [--kind store] [--kills 200]

Of a damaged file either nothing else is read than what was written, or one line says so, or it is made again; and what was
being replaced when the process was killed is the old, the new, or noticed. Prints a table, and a line for all else; exits with
1 when there is any. Hostile stores and descriptions: tests/bad_inputs/hostile_stores.py; whole programs: tests.bad_inputs.
"""

import argparse
import collections
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from accdistill_jax.errors import UserError
from tests.bad_inputs.file_kinds import KINDS, MADE_AGAIN, Kind
from tests.bad_inputs.mutations import byte_damage, flip, spoil_file

LIMIT_S = 30
MEMORY_BYTES = 12 * 2**30  # address space; JAX alone takes gigabytes of it
MOST_MB = 300  # increase of the peak memory that a case may cause
OUTCOMES = ("harmless", "made again", "refused", "old", "new", "WRONG")
_OBJECTS: dict[str, Callable[[Path], None]] = {
    "/dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "a FIFO": os.mkfifo,
    "a link to itself": lambda path: path.symlink_to(path),
}


def files(folder: Path) -> list[Path]:
    """All files below a folder, in order."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def damage(folder: Path, rng: random.Random) -> str:
    """Damages one file below a folder; returns a description of the damage."""
    path = rng.choice(
        [path for path in files(folder) if path.stat().st_size and path.suffix != ".lock" and path.name != "lock"]
    )
    if rng.random() < 0.04:
        how = rng.choice(list(_OBJECTS))
        path.unlink()
        _OBJECTS[how](path)
    elif rng.random() < 0.4:  # the most important places: ends, directories, indices
        size = path.stat().st_size
        at, bit = 1 - rng.random() ** 3 * min(1.0, 2000 / size), 1 << rng.randrange(8)
        how = f"bit {bit} flipped at {at:.6f}"
        spoil_file(path, lambda content: flip(content, at, bit))
    else:
        how, spoil = byte_damage(rng)
        spoil_file(path, spoil)
    return f"{path.relative_to(folder)} {how}"


def outcome(kind: Kind, folder: Path, expected: dict[str, str]) -> tuple[str, str]:
    """Reads a folder as the program does.

    Returns:
        One of `OUTCOMES`, and a text about it; `expected` maps the right contents to their outcomes.
    """
    before, began = _peak_mb(), time.monotonic()
    signal.alarm(LIMIT_S)
    try:
        content = kind.read(folder)
        name, words = (
            ("made again", "") if content == MADE_AGAIN else (expected.get(content, "WRONG"), "read as something else")
        )
    except UserError as error:
        name, words = "refused" if "\n" not in str(error) else "WRONG", str(error)
    except _Hung:
        name, words = "WRONG", f"does not end within {LIMIT_S} s"
    except Exception:
        name, words = "WRONG", "".join(traceback.format_exc()[-600:])
    finally:
        signal.alarm(0)
    if _peak_mb() - before > MOST_MB:
        name, words = "WRONG", f"{_peak_mb() - before:.0f} MB more ({words})"
    return name, f"{words} ({time.monotonic() - began:.1f} s)"


class _Hung(BaseException):
    pass


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_child(work: Callable[[], Iterator[dict]], scratch: Path) -> list[dict]:
    """Yields the results of `work` in a fork, and its death last. This process only imports modules, so it can be forked."""
    out = scratch / "said"
    out.write_text("")
    child = os.fork()
    if not child:
        status = 1
        try:
            signal.signal(signal.SIGALRM, _hung)
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, resource.RLIM_INFINITY))
            with out.open("w") as file:
                for said in work():
                    print(json.dumps(said), file=file, flush=True)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    said = [json.loads(line) for line in out.read_text().splitlines()]
    if status:
        said.append(
            {
                "name": "WRONG",
                "words": f"its process died with {os.waitstatus_to_exitcode(status)}",
                "what": "after the last case",
            }
        )
    return said


def _hung(number, frame):
    raise _Hung


def damages(name: str, count: int, *, seed: int, scratch: Path) -> Iterator[dict]:
    """Damages files of a kind `count` times; yields the outcome of each."""
    kind, rng, whole = KINDS[name], random.Random(f"{seed} {name}"), scratch / "whole"
    whole.mkdir()
    kind.make(whole, 0)
    expected = {kind.read(whole): "harmless"}
    for _ in range(count):
        folder = scratch / "case"
        shutil.copytree(whole, folder)
        what = damage(folder, rng)
        result, words = outcome(kind, folder, expected)
        yield {"name": result, "words": words, "what": what}
        shutil.rmtree(folder)


def kills(name: str, count: int, *, seed: int, scratch: Path) -> Iterator[list[dict]]:
    """Kills a process that replaces one version by another; yields the outcome of reading the files."""
    kind, rng, whole = KINDS[name], random.Random(f"{seed} kill {name}"), scratch / "whole"

    def prepare() -> Iterator[dict]:
        """Both versions, the content of each, and the time that writing the second takes."""
        for version in (0, 1):
            began = time.monotonic()
            kind.make(whole, version)
            yield {"read": kind.read(whole), "seconds": time.monotonic() - began}
        shutil.rmtree(whole)
        whole.mkdir()
        kind.make(whole, 0)

    whole.mkdir()
    versions = in_child(prepare, scratch)
    if len(versions) != 2:
        yield versions
        return
    expected = {versions[1]["read"]: "new"} | {versions[0]["read"]: "old"}
    for _ in range(count):
        folder = scratch / "case"
        shutil.copytree(whole, folder)
        at = rng.uniform(0, 1.2 * versions[1]["seconds"])
        number = rng.randrange(1, 40) if rng.random() < 0.5 else 0
        what = f"killed at call {number}" if number else f"killed after {at:.3f} s"
        _write_and_die(lambda folder=folder: kind.make(folder, 1), folder, number=number, after_s=at)

        def judge(folder: Path = folder, what: str = what) -> Iterator[dict]:
            result, words = outcome(kind, folder, expected)
            yield {"name": result, "words": words, "what": what}

        yield in_child(judge, scratch)
        shutil.rmtree(folder)


def _write_and_die(write: Callable[[], None], folder: Path, *, number: int, after_s: float) -> None:
    """Runs `write` in a fork that is killed at its nth change below a folder, or after a number of seconds."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    left = number

    def count(event: str, arguments: tuple) -> None:
        nonlocal left
        if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate") and str(folder) in str(
            arguments[0]
        ):
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    with contextlib.suppress(BaseException):
        if number:
            sys.addaudithook(count)
        else:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the default action ends the process
            signal.setitimer(signal.ITIMER_REAL, max(after_s, 1e-3))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        write()
    os._exit(0)


def run(
    counts: dict[str, int], kill_counts: dict[str, int], *, seed: int
) -> tuple[dict[str, collections.Counter], list[str]]:
    """Outcomes by kind, and a line for each wrong one."""
    table, wrong = {}, []
    with tempfile.TemporaryDirectory(prefix="damage-") as scratch:
        for number, (name, count) in enumerate([*counts.items(), *kill_counts.items()]):
            own, killed = Path(scratch) / str(number), number >= len(counts)
            own.mkdir()
            if killed:
                said = [line for lines in kills(name, count, seed=seed, scratch=own) for line in lines]
            else:
                said = in_child(
                    lambda name=name, count=count, own=own: damages(name, count, seed=seed, scratch=own), own
                )
            label = f"{name}, killed" if killed else name
            table[label] = collections.Counter(line["name"] for line in said)
            wrong += [f"{label}: {line['what']}: {line['words']}" for line in said if line["name"] not in OUTCOMES[:-1]]
            shutil.rmtree(own)
    return table, wrong


def shares(count: int, kind: str | None) -> dict[str, int]:
    """Distributes `count` over the kinds, at least one each."""
    chosen = {name: own.share for name, own in KINDS.items() if kind in (None, name)}
    return (
        {name: max(1, round(count * share / sum(chosen.values()))) for name, share in chosen.items()} if count else {}
    )


def main() -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bad_inputs.damage",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--count", type=int, default=1000, help="damaged files in all (1000)")
    parser.add_argument("--kills", type=int, default=100, help="killed writers in all (100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=KINDS, help="this kind alone")
    args = parser.parse_args()
    began = time.monotonic()
    table, wrong = run(shares(args.count, args.kind), shares(args.kills, args.kind), seed=args.seed)
    print(f"{'kind':26} {'cases':>6} " + " ".join(f"{name:>10}" for name in OUTCOMES))
    for name, own in table.items():
        print(f"{name:26} {own.total():6} " + " ".join(f"{own[key]:10}" for key in OUTCOMES))
    for line in wrong:
        print(f"WRONG {line}")
    total = sum((own.total() for own in table.values()), 0)
    print(f"{total} cases, {len(wrong)} wrong, seed {args.seed}, {time.monotonic() - began:.0f} s")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
