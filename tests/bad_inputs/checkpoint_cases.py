"""Damaged checkpoints, exported parameters and records of a run."""

import itertools
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from accdistill_jax.data.store.store import Store
from tests.bad_inputs.bases import SMOKE, Bases, run_arguments
from tests.bad_inputs.case import MAIN, Case
from tests.bad_inputs.mutations import GARBAGE, Spoil, byte_damage, json_damage, spoil_file

STAGES = ("teacher", "student")
_FIRST, _LAST = 3, 6


def cases(rng: random.Random, bases: Bases) -> Iterator[Case]:
    """Each kind of damage in turn, without end."""
    kinds = [
        _export_file,
        _export_record,
        _newest,
        _config_copy,
        _export_file,
        _export_record,
        _all_checkpoints,
        _newest_record,
        _foreign_export,
        _foreign_checkpoint,
        _run_record,
        _unreadable_store,
    ]
    seen = set()
    for kind in itertools.cycle(kinds):
        case = kind(rng, bases)
        if case.name not in seen:
            seen.add(case.name)
            yield case


def _arguments(bases: Bases, stage: str) -> tuple[str, ...]:
    return (*run_arguments(bases, "{}/run"), f"--config.stages=('{stage}',)")


def _copy(bases: Bases, folder: Path, *, without: str | None = None) -> Path:
    """A copy of the run without the export of a stage, so the stage continues from its checkpoints."""
    run = Path(shutil.copytree(bases.run, folder / "run"))
    if without:
        shutil.rmtree(run / without / "export")
    return run


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _any_damage(rng: random.Random) -> tuple[str, Spoil | None]:
    return ("removed", None) if rng.random() < 0.15 else byte_damage(rng)


def _record_damage(rng: random.Random, path: Path) -> tuple[str, Spoil | None]:
    """Damages a JSON file: a value, a type, a key, or bytes that are no longer JSON."""
    if rng.random() < 0.7:
        return json_damage(rng, path.read_bytes())
    at = rng.random()
    return rng.choice(
        [
            ("emptied", lambda content: b""),
            ("garbage", lambda content: GARBAGE),
            ("a list", lambda content: b"[]"),
            (f"cut at {at:.3f}", lambda content: content[: int(at * (len(content) - 2))]),
        ]
    )


def _of_export(
    bases: Bases, rng: random.Random, stage: str, name: str, how: str, spoil: Spoil | None, *named: str
) -> Case:
    """Read by the run itself, or as the teacher of another run."""
    elsewhere = stage == "teacher" and rng.random() < 0.5

    def build(folder: Path) -> None:
        run = _copy(bases, folder)
        spoil_file(run / stage / "export" / name, spoil)
        if elsewhere:
            run.rename(folder / "before")

    if elsewhere:
        arguments = (*_arguments(bases, "student"), "--config.teacher.path={}/before/teacher/export")
        return Case(
            f"teacher/export/{name} {how}; as another run's teacher",
            MAIN,
            arguments,
            ("{}/before/teacher/export", *named),
            build,
        )
    return Case(
        f"{stage}/export/{name} {how}", MAIN, _arguments(bases, stage), (f"{{}}/run/{stage}/export", *named), build
    )


def _export_file(rng: random.Random, bases: Bases) -> Case:
    stage = rng.choice(STAGES)
    name = rng.choice(_files(bases.run / stage / "export" / "params"))
    how, spoil = _any_damage(rng)
    return _of_export(bases, rng, stage, f"params/{name}", how, spoil, name)


def _export_record(rng: random.Random, bases: Bases) -> Case:
    stage = rng.choice(STAGES)
    how, spoil = _record_damage(rng, bases.run / stage / "export" / "export.json")
    return _of_export(bases, rng, stage, "export.json", how, spoil)


def _foreign_export(rng: random.Random, bases: Bases) -> Case:
    """The parameters or the record of the other stage in place of the right ones."""
    stage, other = rng.sample(STAGES, 2)
    damaged_part = rng.choice(("params", "export.json", "export"))

    def build(folder: Path) -> None:
        run = _copy(bases, folder)
        path = run / stage / "export" if damaged_part == "export" else run / stage / "export" / damaged_part
        theirs = (
            bases.run / other / "export" if damaged_part == "export" else bases.run / other / "export" / damaged_part
        )
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(theirs, path) if theirs.is_dir() else shutil.copy(theirs, path)

    return Case(
        f"{stage}/export: {damaged_part} of the {other}",
        MAIN,
        _arguments(bases, stage),
        (f"{{}}/run/{stage}/export",),
        build,
    )


def _going_on(bases: Bases, stage: str, name: str, damage, *named: str) -> Case:
    """Damage after which the run may use the previous checkpoint, with a warning."""
    export = json.loads((bases.run / stage / "export" / "export.json").read_text())

    def build(folder: Path) -> None:
        damage(_copy(bases, folder, without=stage) / stage / "checkpoints")

    return Case(
        name,
        MAIN,
        _arguments(bases, stage),
        named,
        build,
        falls_back=f"run/{stage}/export/export.json",
        expected=export["fingerprint"],
    )


def _newest(rng: random.Random, bases: Bases) -> Case:
    stage = rng.choice(STAGES)
    name = rng.choice(_files(bases.run / stage / "checkpoints" / str(_LAST)))
    how, spoil = _any_damage(rng)
    return _going_on(
        bases,
        stage,
        f"{stage} checkpoint {_LAST}: {name} {how}",
        lambda checkpoints: spoil_file(checkpoints / str(_LAST) / name, spoil),
        f"{{}}/run/{stage}/checkpoints/{_LAST}",
        name,
    )


def _newest_record(rng: random.Random, bases: Bases) -> Case:
    stage = rng.choice(STAGES)
    how, spoil = _record_damage(rng, bases.run / stage / "checkpoints" / f"{_LAST}.json")
    return _going_on(
        bases,
        stage,
        f"{stage} checkpoint {_LAST}.json: {how}",
        lambda checkpoints: spoil_file(checkpoints / f"{_LAST}.json", spoil),
        f"{{}}/run/{stage}/checkpoints/{_LAST}|{{}}/run/{stage}: checkpoint of step {_LAST}",
    )


def _all_checkpoints(rng: random.Random, bases: Bases) -> Case:
    """No whole checkpoint is left: only the user may decide to train from the start."""
    stage, which = rng.choice(STAGES), rng.choice(("arrays", "records", "folders"))

    def build(folder: Path) -> None:
        checkpoints = _copy(bases, folder, without=stage) / stage / "checkpoints"
        for step in (_FIRST, _LAST):
            if which == "arrays":
                largest = max(
                    (path for path in (checkpoints / str(step)).rglob("*") if path.is_file()),
                    key=lambda path: path.stat().st_size,
                )
                largest.write_bytes(largest.read_bytes()[:100])
            elif which == "records":
                (checkpoints / f"{step}.json").write_bytes(GARBAGE)
            else:
                shutil.rmtree(checkpoints / str(step))

    return Case(
        f"{stage}: all checkpoints damaged ({which}, {rng.randrange(100)})",
        MAIN,
        _arguments(bases, stage),
        (f"{{}}/run/{stage}/checkpoints",),
        build,
    )


def _foreign_checkpoint(rng: random.Random, bases: Bases) -> Case:
    stage, other = rng.sample(STAGES, 2)

    def build(folder: Path) -> None:
        run = _copy(bases, folder, without=stage)
        shutil.rmtree(run / stage / "checkpoints")
        shutil.copytree(bases.run / other / "checkpoints", run / stage / "checkpoints")

    return Case(
        f"{stage}: checkpoints of the {other} ({rng.randrange(100)})",
        MAIN,
        _arguments(bases, stage),
        (f"{{}}/run/{stage}",),
        build,
    )


def _config_copy(rng: random.Random, bases: Bases) -> Case:
    """Damages config.json, the run's record of its config."""
    path = bases.run / "config.json"
    if rng.random() < 0.5:
        at = rng.random()
        how, spoil = rng.choice(
            [
                ("emptied", lambda content: b""),
                ("garbage", lambda content: GARBAGE),
                ("[]", lambda content: b"[]"),
                ("{}", lambda content: b"{}"),
                ("no mapping", lambda content: b'{"config": 5}'),
                ("nested deep", lambda content: b"[" * 200_000),
                (f"cut at {at:.3f}", lambda content: content[: int(at * (len(content) - 2))]),
            ]
        )
    else:
        binding = ("seed", "data", "inputs", "teacher", "student")
        how, spoil = json_damage(
            rng,
            path.read_bytes(),
            only=lambda own: (
                own[0] == "config" and own[1] in binding and own[2:3] not in (("unseen_stores",), ("synthetic",))
            ),
        )

    def build(folder: Path) -> None:
        spoil_file(_copy(bases, folder) / "config.json", spoil)

    return Case(f"config.json {how}", MAIN, _arguments(bases, "teacher"), ("{}/run",), build)


def _run_record(rng: random.Random, bases: Bases) -> Case:
    """Damages seconds and metrics of a run: the run continues with a warning."""
    stage, number = rng.choice(STAGES), rng.randrange(1000)
    name = rng.choice(("stages.json", f"metrics/{stage}.jsonl"))
    how, content = rng.choice(
        [
            ("garbage", GARBAGE),
            ("a list", b"[1]\n"),
            ("words", b'{"data": "x", "teacher": null, "student": []}\n'),
            ("cut", b'{"data": '),
            ("a number", b"5\n"),
        ]
    )

    def damage(checkpoints: Path) -> None:
        (checkpoints.parents[1] / name).write_bytes(content)
        shutil.rmtree(checkpoints / str(_LAST))
        (checkpoints / f"{_LAST}.json").unlink()

    return _going_on(bases, stage, f"{name} {how} ({number})", damage, f"{{}}/run/{name}")


def _unreadable_store(rng: random.Random, bases: Bases) -> Case:
    """A run that continues from an older checkpoint and cannot read its data: its records do not change."""
    stage, number = rng.choice(STAGES), rng.randrange(1000)

    def build(folder: Path) -> None:
        run = _copy(bases, folder, without=stage)
        shutil.rmtree(run / stage / "checkpoints" / str(_LAST))
        (run / stage / "checkpoints" / f"{_LAST}.json").unlink()
        record = json.loads((run / "config.json").read_text())
        record["config"]["data"]["stores"] = [str(folder / "store")]
        (run / "config.json").write_text(json.dumps(record))
        store = Store.open(shutil.copytree(bases.store, folder / "store"))
        shard = folder / "store" / "accel" / "c/0/0/0" if stage == "student" else folder / "store" / "ppg" / "c/0/0/0"
        data = bytearray(shard.read_bytes())
        row_bytes = 2 * store.samples * len(store.channels[shard.parents[3].name])
        for segment in store.indices("train").tolist():
            data[segment * row_bytes + number] ^= 1
        shard.write_bytes(data)

    return Case(
        f"{stage}: goes on, and every segment is damaged in byte {number}",
        MAIN,
        (SMOKE, "--workdir={}/run", "--config.data.stores=('{}/store',)", f"--config.stages=('{stage}',)"),
        ("{}/store",),
        build,
    )
