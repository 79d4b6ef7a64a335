"""Embeds recordings into one Parquet file: workers cut them, this process embeds them; an interrupted call continues.

Each finished recording is a part in `OUT.partial/`; the last step joins the parts in order, renames the result to its final name, and
removes the folder. Result and parts note the files that they come from (`source_files`); those of other files are refused.
"""

import functools
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from accdistill_jax.api.recordings import Embeds, minute_table, minutes_of, recording_remarks
from accdistill_jax.api.signals import InputContract
from accdistill_jax.api.source_files import SourceFiles, note_files
from accdistill_jax.data.prepare.preparation import PreparationSettings
from accdistill_jax.data.prepare.staging import bad_message, prepare_one, process_died
from accdistill_jax.data.prepare.workers import run_all
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.recording import RecordingSource
from accdistill_jax.data.recordings import Found
from accdistill_jax.data.store.remarks import why_rejected
from accdistill_jax.data.store.request import difference
from accdistill_jax.data.store.units import unit_file
from accdistill_jax.errors import UserError
from accdistill_jax.files import remove_matching, write_atomically
from accdistill_jax.runtime.progress import progress_bar
from accdistill_jax.storage.sole_use import LOCK, sole_use

_REQUEST = "request.json"
_REMARKS = "remarks"  # key in the notes of a cut recording
_METADATA = b"accdistill_jax"  # key in the metadata of a part and of the result


class EmbeddingWork(NamedTuple):
    """Recordings to embed.

    Attributes:
        encoder: embeds their minutes.
        contract: of the encoder.
        fingerprint: of the encoder.
        readouts: hash of its read-outs, see `content_hash`.
        found: the recordings, with the name and options of their reader.
        settings: thresholds, at the encoder's rate and length.
        roots: files, folders and addresses that were searched for them.
    """

    encoder: Embeds
    contract: InputContract
    fingerprint: str
    readouts: str
    found: Found
    settings: PreprocessSettings
    roots: Sequence[str | os.PathLike[str]]

    def request(self) -> dict[str, Any]:
        """Everything that determines a part besides the files, as JSON values."""
        request = {
            "encoder": self.fingerprint,
            "read-outs": self.readouts,
            "part": self.contract.part,
            "reader": self.found.reader,
            "options": self.found.options,
            "settings": self.settings.to_json(),
        }
        return json.loads(json.dumps(request, default=str))


class EmbeddingSummary(NamedTuple):
    """The result of embedding.

    Attributes:
        recordings: number of embedded recordings.
        examined: minutes examined.
        kept: minutes embedded.
        rejected: reason -> minutes left out.
        bad: recordings left out, with the problem.
        before: True if the file was complete before and is left as it is.
    """

    recordings: int
    examined: int
    kept: int
    rejected: dict[str, int]
    bad: dict[str, str]
    before: bool


def embed_to_file(
    work: EmbeddingWork,
    out: Path,
    *,
    preparation: PreparationSettings,
    report: Callable[[str], None] = lambda line: None,
) -> EmbeddingSummary:
    """Embeds recordings into a Parquet file, see `minute_table` for its columns; the same call continues after an interruption.

    Args:
        work: recordings, encoder and settings.
        out: the file.
        preparation: workers, overwriting, bad recordings and progress bars.
        report: receives a line about recordings that an earlier start embedded, and about those unlike the training data.

    Raises:
        UserError: bad recordings (all are named, after the others were embedded and kept), no minute that passes, another file at
            `out`, a result or parts of other files, or a disk that refuses.
    """
    request, ids = work.request(), [source.recording_id for source in work.found]
    files = note_files(work.roots, work.found)
    if out.suffix.lower() not in (".parquet", ".pq"):
        raise UserError(f"--out {out}: the result is a Parquet file; give a name that ends in .parquet")
    if not preparation.overwrite and (before := _finished(out, request, ids, files)) is not None:
        return before
    partial = out.with_name(out.name + ".partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with sole_use(partial, refusal=lambda who: f"{out}: another process is writing it ({who}); wait for it"):
            _claim(partial, request, overwrite=preparation.overwrite)
            _refuse_stale(partial, work.found, files)
            _write_request(partial, request, files)
            bad = _embed_missing(work, files, partial, preparation, report)
            summary = _join(work, bad, partial, out, {"request": request, "files": files.noted()})
    except OSError as error:
        raise UserError(f"{error.filename or out}: cannot be written ({error.strerror or error})") from error
    finally:
        _remove_if_empty(partial)
    return summary


def _embed_missing(
    work: EmbeddingWork,
    files: SourceFiles,
    partial: Path,
    preparation: PreparationSettings,
    report: Callable[[str], None],
) -> dict[str, str]:
    """Embeds the recordings that have no part yet; returns the bad ones with their problem."""
    found, bad = work.found, {}
    missing = [source for source in found if not (partial / _part(source.recording_id)).exists()]
    kept = len(found) - len(missing)
    if kept:
        report(f"{kept} of {len(found)} recordings were embedded by an earlier start and are kept")
    cut = functools.partial(_cut, contract=work.contract, settings=work.settings, skip_bad=preparation.skip_bad)
    with progress_bar(not preparation.quiet) as bar:
        task = bar.add_task("embedding recordings", total=len(found), completed=kept)
        results = run_all(
            cut,
            missing,
            workers=preparation.workers,
            apart=found.can_crash,
            died=lambda source, why: process_died(source, why),
        )
        for source, batch in results:
            if isinstance(batch, str):
                bad[source.recording_id] = batch
            else:
                for remark in batch.notes[_REMARKS]:
                    report(f"recording {source.recording_id}: {remark}")
                table = minute_table(batch, work.encoder, work.contract.modality)
                about = {"examined": batch.examined, "rejected": batch.rejected, "files": files.identity(source)}
                write_atomically(partial / _part(source.recording_id), _encoded(table, about))
            bar.advance(task)
    if bad and not preparation.skip_bad:
        raise UserError(bad_message(bad, len(found)))
    if len(bad) == len(found):
        raise UserError(f"none of the recordings can be embedded: {bad_message(bad, len(found))}")
    return bad


def _cut(source: RecordingSource, *, contract: InputContract, settings: PreprocessSettings, skip_bad: bool):
    """The minutes of a recording, or its problem in words. A worker process calls this."""
    prepared = prepare_one(
        source, functools.partial(minutes_of, contract=contract, settings=settings), skip_bad=skip_bad
    )
    if isinstance(prepared, str):
        return prepared
    recording, batch = prepared
    batch.notes[_REMARKS] = recording_remarks(recording, contract)
    return batch


def _join(
    work: EmbeddingWork, bad: Mapping[str, str], partial: Path, out: Path, origin: Mapping[str, Any]
) -> EmbeddingSummary:
    """Joins the parts into the result, whose metadata has the `origin`: request and files."""
    order = [source.recording_id for source in work.found if source.recording_id not in bad]
    rejected: Counter = Counter()
    examined = kept = 0
    parts = [partial / _part(name) for name in order]
    for part in parts:
        try:
            metadata = pq.read_metadata(part)
            counts = json.loads((metadata.metadata or {})[_METADATA])
        except (OSError, pa.ArrowException, ValueError, KeyError) as error:
            part.unlink(missing_ok=True)
            raise UserError(f"{part}: was damaged and is removed; run the same command again") from error
        examined, kept = examined + counts["examined"], kept + metadata.num_rows
        rejected.update(counts["rejected"])
    if not kept:
        raise UserError(
            f"no minute was embedded of {examined} examined; loosen the thresholds or add recordings: "
            f"{why_rejected(rejected, work.settings.to_json())}"
        )
    about = {
        **origin,
        "recordings": order,
        "bad": dict(bad),
        "examined": examined,
        "rejected": dict(rejected),
    }
    first = pq.read_schema(parts[0])
    schema = first.with_metadata({_METADATA: json.dumps(about)})
    whole = partial / "whole.parquet"
    with pq.ParquetWriter(whole, schema, compression="zstd") as writer:
        for part in parts:
            writer.write_table(pq.read_table(part).replace_schema_metadata(schema.metadata))
    with whole.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(whole, out)
    for part in parts:
        part.unlink()
    (partial / _REQUEST).unlink()
    return EmbeddingSummary(len(order), examined, kept, dict(rejected), dict(bad), False)


def _finished(out: Path, request: Mapping[str, Any], ids: Sequence[str], files: SourceFiles) -> EmbeddingSummary | None:
    """The summary of a complete result of the same request and files; None if there is no file.

    Raises:
        UserError: another file is there.
    """
    if not os.path.lexists(out):
        return None
    try:
        metadata = pq.read_metadata(out)
        about = json.loads((metadata.metadata or {})[_METADATA])
        same = about["request"] == request and set(about["recordings"]) | set(about["bad"]) == set(ids)
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{out}: another file is there; choose another name, or replace it by --overwrite") from error
    if not same:
        reason = difference(about["request"], dict(request)) or "other recordings"
        raise UserError(f"{out}: was made otherwise ({reason}); choose another name, or replace it by --overwrite")
    if changed := files.difference(about.get("files")):
        raise UserError(
            f"{out}: was not made from these files as they are ({changed}); choose another name, or replace it by --overwrite"
        )
    return EmbeddingSummary(
        len(about["recordings"]), about["examined"], metadata.num_rows, about["rejected"], about["bad"], True
    )


def _claim(partial: Path, request: Mapping[str, Any], *, overwrite: bool) -> None:
    """Removes parts of another request that may go; raises UserError if others are there."""
    staged = _staged(partial)
    if staged is not None and (overwrite or staged["request"] != request):
        if not overwrite and any(
            partial.glob("*.part.parquet")
        ):  # settings without a part are those of a failed command
            raise UserError(
                f"{partial}: an interrupted command with other settings is kept there "
                f"({difference(staged['request'], dict(request))}); repeat it to continue, or discard it by --overwrite"
            )
        remove_matching(partial, lambda name: _is_ours(name) and name != LOCK)


def _refuse_stale(partial: Path, found: Found, files: SourceFiles) -> None:
    """Raises UserError if parts there come from other files, or from files that have changed."""
    stale = []
    for source in found:
        try:
            metadata = pq.read_metadata(partial / _part(source.recording_id)).metadata or {}
            if json.loads(metadata[_METADATA]).get("files") != files.identity(source):
                stale.append(source.recording_id)
        except (OSError, pa.ArrowException, ValueError, KeyError):
            continue  # no part, or a damaged one, which `_join` removes
    if stale:
        staged = _staged(partial)
        changed = files.difference(staged["files"] if staged else None) or "they have changed"
        raise UserError(
            f"{partial}: an interrupted command is kept there, and its recordings ({', '.join(stale[:3])}{' ...' if len(stale) > 3 else ''}) "
            f"were not embedded from these files as they are ({changed}); discard it by --overwrite"
        )


def _staged(partial: Path) -> dict[str, Any] | None:
    """The request of the parts, and the note of their files (None in an earlier version); None if there is no request."""
    path = partial / _REQUEST
    if not path.exists():
        return None
    try:
        staged = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {"request": {}, "files": None}
    return staged if "request" in staged else {"request": staged, "files": None}


def _write_request(partial: Path, request: Mapping[str, Any], files: SourceFiles) -> None:
    write_atomically(partial / _REQUEST, json.dumps({"request": request, "files": files.noted()}, indent=1))


def _part(recording_id: str) -> str:
    return unit_file(recording_id).removesuffix(".npz") + ".part.parquet"


def _is_ours(name: str) -> bool:
    return name in (_REQUEST, LOCK, "whole.parquet") or re.fullmatch(r"[^/]+\.part\.parquet", name) is not None


def _remove_if_empty(partial: Path) -> None:
    """Removes the folder of the parts if nothing but the lock is left in it."""
    if partial.is_dir() and {path.name for path in partial.iterdir()} <= {LOCK}:
        remove_matching(partial, _is_ours)


def _encoded(table: pa.Table, counts: Mapping[str, Any]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({_METADATA: json.dumps(counts)}), sink, compression="zstd")
    return sink.getvalue().to_pybytes()
