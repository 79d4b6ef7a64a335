"""The command `accdistill probe`: fits a read-out of a user's label on the embeddings of a store, and saves it beside the encoder."""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from accdistill_jax.api.arguments import add_quiet, encoder_parser
from accdistill_jax.data.prepare.show import print_line
from accdistill_jax.errors import UserError
from accdistill_jax.files import is_address
from accdistill_jax.readouts.label_probe import MODELS, LabelProbe, probe_path, save_label_probe
from accdistill_jax.runtime.command import run_command
from accdistill_jax.runtime.progress import progress_bar
from accdistill_jax.user_paths import expanded

if TYPE_CHECKING:
    from accdistill_jax.evaluation.probing.own_label import FittedLabel
    from accdistill_jax.evaluation.probing.own_label_scores import ProbeMeasure

PROG = "accdistill probe"
_LEVEL = 0.9
_ROWS = 1024  # segments that are read at a time
_FEW_PEOPLE = 10


def probe_parser(prog: str = PROG) -> argparse.ArgumentParser:
    """Builds the parser."""
    parser = encoder_parser(
        prog,
        "Fits a read-out of your own label on the embeddings of a store, measures it on people who are left out, and "
        "saves it beside the encoder. `accdistill predict` then offers it.",
        run_help="work directory of a run, or an export folder; of a shipped encoder, a copy of its folder",
    )
    parser.add_argument("store", type=expanded, help="store with labelled people or minutes")
    parser.add_argument(
        "--target",
        required=True,
        type=expanded,
        metavar="COLUMN|FILE",
        help="a column of the store's segments or participants; or a table (.csv, .tsv, .parquet) with the columns participant, start (for "
        "labels of minutes: ISO 8601 or unix seconds) and the label",
    )
    parser.add_argument("--column", metavar="NAME", help="column of the table, if it has several labels")
    parser.add_argument(
        "--kind",
        choices=("number", "classes"),
        help="kind of the label (default: classes if it has texts or only two values, else number)",
    )
    parser.add_argument(
        "--model",
        choices=MODELS,
        default="linear",
        help="linear model, or boosted decision trees on the embedding (default: linear)",
    )
    parser.add_argument("--name", help="name of the read-out (default: that of the label)")
    parser.add_argument("--unit", default="", help="unit of a number, for figures and tables")
    parser.add_argument("--seed", type=int, default=0, help="seed of folds, trees and intervals (default: 0)")
    add_quiet(parser)
    return parser


def _probe(argv: Sequence[str], prog: str, console: Console) -> None:
    args = probe_parser(prog).parse_args(argv)
    if is_address(args.run):
        raise UserError(
            f"{args.run}: the read-out is saved beside the encoder, in a local folder; fetch the run by accdistill mirror pull"
        )
    if args.seed < 0:
        raise UserError(f"--seed {args.seed} must not be negative")
    # imported here: jax and scikit-learn take seconds
    from accdistill_jax.api.encoder import TrainedEncoder
    from accdistill_jax.api.loading import load
    from accdistill_jax.api.probe_labels import read_label
    from accdistill_jax.api.shipped import is_shipped
    from accdistill_jax.api.store import open_store
    from accdistill_jax.data.store.trained_on import people_seen
    from accdistill_jax.evaluation.probing.own_label import INTERVAL_PEOPLE, OwnLabel, fit_own_label

    encoder: TrainedEncoder = load(args.run, part=args.part)
    if is_shipped(encoder.path):
        raise UserError(
            f"{args.run} is part of the installation, and the read-out is saved beside the encoder; copy the folder {encoder.path}, and "
            "give the copy"
        )
    store = open_store(args.store)
    contract = encoder.contract
    if (store.rate_hz, store.samples) != (contract.rate_hz, contract.samples):
        raise UserError(
            f"{args.store}: its segments have {store.samples} samples at {store.rate_hz:g} Hz; the encoder reads {contract.samples} at "
            f"{contract.rate_hz:g} Hz: prepare the recordings again with --rate-hz {contract.rate_hz:g} and --segment-s "
            f"{contract.samples / contract.rate_hz:g}"
        )
    label = read_label(store, args.target, column=args.column, kind=args.kind)
    name = args.name or label.name
    probe_path(encoder.path, name)  # a bad name is refused before the work
    for line in label.remarks:
        print_line(line, console)
    rows = np.flatnonzero(np.isfinite(label.value))
    who = np.asarray(store.segments["participant"]).astype(str)[rows]
    seen = people_seen(store, encoder.trained_on)
    scored = ~np.isin(who, list(seen)) if seen else np.ones(len(rows), bool)
    cautions = []
    answers = len(np.unique(label.value[rows][scored]))
    if len(np.unique(who[scored])) < 2 or answers < len(label.classes):
        scored = np.ones(len(rows), bool)
        cautions.append("the encoder was trained on the signals of most of these people; on others it may be worse")
    embedding = np.empty((len(rows), encoder.embedding_size), np.float32)
    with progress_bar(not args.quiet) as bar:
        task = bar.add_task("embedding segments", total=len(rows))
        for start in range(0, len(rows), _ROWS):
            part = slice(start, start + _ROWS)
            embedding[part] = encoder.encode(store.read(rows[part]))
            bar.advance(task, len(embedding[part]))
    own = OwnLabel(
        label.kind,
        label.per,
        label.classes,
        embedding=embedding,
        participant=who,
        value=label.value[rows],
        motion_g=np.asarray(store.segments["motion_g"], np.float32)[rows],
        scored=scored,
    )
    try:
        fitted = fit_own_label(own, model=args.model, seed=args.seed)
    except UserError as error:
        where = args.target if label.name in args.target.split("/") else f"{args.target}: {label.name}"
        raise UserError(f"{where}: {error}") from error
    probe = LabelProbe(
        name,
        args.unit if label.kind == "number" else "",
        label.kind,
        label.per,
        label.classes,
        model=fitted.model,
        half_width=fitted.half_width,
        level=_LEVEL,
        people=fitted.people,
        domain=fitted.domain,
        fingerprint=encoder.fingerprint,
        measured={f"{m.words}, {m.baseline}": _number(m) for m in fitted.measures},
    )
    path = save_label_probe(encoder.path, probe)
    if label.kind == "number" and not scored.all() and fitted.scored_people < INTERVAL_PEOPLE:
        cautions.append(
            "the intervals come from people on whose signals the encoder was trained; on others they are too short"
        )
    for line in [*_summary(probe, fitted, args.model), *(f"caution: {c}" for c in cautions), f"saved: {path}"]:
        print_line(line, console)


def _summary(probe: LabelProbe, fitted: "FittedLabel", model: str) -> list[str]:
    form = f"{len(probe.classes)} classes: {', '.join(probe.classes)}" if probe.classes else "a number"
    left_out = f"measured on {fitted.scored_people} people who were left out of the fit in turn"
    lines = [
        f"{probe.name} ({form}; per {probe.per}; {model}): {fitted.minutes} minutes of {fitted.people} people; {left_out}"
    ]
    unit = f" {probe.unit}" if probe.unit else ""
    for measure in fitted.measures:
        said = {True: ": better", False: ": not shown to be better", None: ""}[measure.better]
        of = unit if measure.words == "mean absolute error" else ""
        lines.append(f"  {measure.words} {_number(measure)}{of}; {measure.baseline} {measure.reference:.3g}{of}{said}")
    if probe.kind == "number":
        width = (
            f"± {probe.half_width:.3g}{unit}" if np.isfinite(probe.half_width) else "none: it needs at least 9 people"
        )
        lines.append(f"  interval ({100 * probe.level:g} %, people left out in turn): {width}")
    if fitted.scored_people < _FEW_PEOPLE:
        lines.append(f"caution: {fitted.scored_people} people are few, the intervals may be too short")
    return lines


def _number(measure: "ProbeMeasure") -> str:
    estimate = measure.estimate
    interval = "" if estimate.interval is None else f" [{estimate.interval[0]:.3g}, {estimate.interval[1]:.3g}]"
    return f"{estimate.number:.3g}{interval}"


def main(argv: Sequence[str] | None = None, *, prog: str = PROG) -> int:
    """Runs the command.

    Returns:
        The exit status: 0; 2 for an error that the user can fix; 128 plus the signal's number if a signal stopped it.
    """
    argv = sys.argv[1:] if argv is None else argv
    console = Console() if sys.stdout.isatty() else Console(width=140)
    return run_command(lambda: _probe(argv, prog, console))
