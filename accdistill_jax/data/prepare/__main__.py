"""Command line of data preparation: makes stores from recordings or a generator, checks, shows and measures stores."""

from accdistill_jax.runtime import streams  # isort: skip

if __name__ == "__main__":
    streams.secure(product="files")

import argparse
import inspect
import os
import sys
from collections.abc import Sequence

from rich.console import Console

from accdistill_jax.data import recordings
from accdistill_jax.data.outside_readers import RESERVED
from accdistill_jax.data.prepare import clock_table, measure, show
from accdistill_jax.data.prepare.append import append_recordings
from accdistill_jax.data.prepare.field_flags import Field, add_flags, chosen_fields, dataclass_fields, function_fields
from accdistill_jax.data.prepare.people import FLAG, OPTION, stated_rule
from accdistill_jax.data.prepare.preparation import PreparationSettings, find_recordings, prepare_recordings
from accdistill_jax.data.prepare.respiration_table import MIN_QUALITY, write_respiration
from accdistill_jax.data.preprocessing.clocks import LARGEST_S, LEAST_MINUTES, MOST_MINUTES
from accdistill_jax.data.preprocessing.settings import MEASURED_ONLY, PreprocessSettings
from accdistill_jax.data.recognition import recognise
from accdistill_jax.data.store.manifest import verify_checksums
from accdistill_jax.data.store.merge import merge_stores
from accdistill_jax.data.store.split import SplitRule
from accdistill_jax.data.store.store import Store
from accdistill_jax.data.synthetic import synthetic
from accdistill_jax.errors import CommandParser, UserError
from accdistill_jax.runtime.command import run_command
from accdistill_jax.text import one_line
from accdistill_jax.user_paths import expanded, path_argument

_PREPROCESS = dataclass_fields(PreprocessSettings)
_TAKEN = {field.name for field in _PREPROCESS}  # a reader's option of such a name has the flag --file-NAME
# The synthetic generator takes the number of PPG channels in place of their names.
_PREPROCESS_SYNTHETIC = [field for field in _PREPROCESS if field.name not in ("ppg_channels", *MEASURED_ONLY)]
_PREPARATION = dataclass_fields(PreparationSettings)
_PREPARATION_SYNTHETIC = [field for field in _PREPARATION if field.name not in ("skip_bad", "engine", "beam_options")]
_SYNTHETIC = dataclass_fields(synthetic.SyntheticSettings)


PROG = "python -m accdistill_jax.data.prepare"


def build_parser(prog: str = PROG) -> argparse.ArgumentParser:
    """Builds the parser, with one sub-command for each reader of recordings; `prog` is the command's name in messages."""
    parser = CommandParser(
        prog=prog,
        description="Prepares stores of 60 s segments for training, checks stores and shows their content.",
        epilog="To continue an interrupted preparation, run the same command again. Recordings that are already prepared are kept, "
        "even if their files have changed since; --overwrite prepares them again.",
    )
    parser.add_argument(
        "--reader",
        metavar="FILE",
        help="in place of COMMAND: a reader of your own, such as my_reader.py (its flags: --reader my_reader.py --help)",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command = commands.add_parser("auto", help="recordings of any kind: finds the reader and says why")
    _add_recordings_flags(command)
    command.add_argument(
        FLAG, dest=OPTION, metavar="RULE", help="the participant's id, as in the flag of the reader found"
    )
    for name in recordings.names():
        try:
            _add_reader(commands, recordings.reader(name))
        except UserError as error:
            if not recordings.is_outside(name):
                raise
            command = commands.add_parser(name, help=f"cannot be used: {one_line(str(error))}".replace("%", "%%"))
            command.add_argument("rest", nargs=argparse.REMAINDER)
            command.set_defaults(problem=error)
    command = commands.add_parser("synthetic", help="synthetic recordings of a generated population")
    _add_output_flags(command, _PREPARATION_SYNTHETIC)
    add_flags(command.add_argument_group("population"), _SYNTHETIC)
    add_flags(command.add_argument_group("preprocessing"), _PREPROCESS_SYNTHETIC)
    command = commands.add_parser("verify", help="check every file of a store against its checksum")
    command.add_argument("store", type=expanded, help="folder or URL")
    command = commands.add_parser("show", help="print the content of a store: splits, labels, counts")
    command.add_argument("store", type=expanded, help="folder or URL")
    command.add_argument("--plot", type=expanded, metavar="PNG", help="also draw a few segments into this file")
    command.add_argument("--segments", type=int, default=4, help="number of segments to draw (default: 4)")
    _add_merge(commands)
    command = commands.add_parser(
        "measure", help="measure sensors and wrists of stores: noise, motion, the heart in the acceleration, breathing"
    )
    command.add_argument("store", nargs="+", type=expanded, help="folder or URL; several are compared")
    command.add_argument(
        "--by",
        choices=measure.BY,
        default="device",
        help="the table has a column for each device or each participant (default: device)",
    )
    command.add_argument(
        "--segments", type=int, default=500, help="largest number of segments for each column (default: 500)"
    )
    command = commands.add_parser(
        "clocks",
        help="measure how far the clocks of PPG and acceleration are apart in each recording, from the heartbeat in both",
    )
    command.add_argument("store", nargs="+", type=expanded, help="folder or URL")
    command.add_argument(
        "--minutes",
        type=int,
        default=MOST_MINUTES,
        help=f"most still minutes of a recording, spread evenly (default: {MOST_MINUTES})",
    )
    command.add_argument(
        "--largest", type=float, default=LARGEST_S, metavar="S", help=f"largest lag in s (default: {LARGEST_S:g})"
    )
    command = commands.add_parser(
        "respiration", help="estimate the respiration rate of each minute of stores, with a quality, into a CSV file"
    )
    command.add_argument("store", nargs="+", type=expanded, help="folder or URL")
    command.add_argument("--out", required=True, type=path_argument, metavar="CSV", help="the file to make")
    command.add_argument(
        "--min-quality",
        type=float,
        default=MIN_QUALITY,
        help=f"respiration_bpm is empty below this quality, 0 to 1 (default: {MIN_QUALITY})",
    )
    return parser


def _add_reader(commands: "argparse._SubParsersAction[CommandParser]", reader: recordings.Reader) -> None:
    options = _options(reader)
    command = commands.add_parser(
        reader.name,
        help=reader.summary.replace("%", "%%"),
        description=reader.description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_recordings_flags(command, options)


def _options(reader: recordings.Reader) -> list[Field]:
    """The options of a reader as flags; one from outside is not trusted.

    Raises:
        UserError: an option cannot become a flag.
    """
    if not reader.is_outside:
        return function_fields(reader.find)
    try:
        options = function_fields(reader.find)
        trial = argparse.ArgumentParser()
        _add_recordings_flags(trial, options)
        trial.format_help()
    except Exception as error:
        raise UserError(f"the reader {reader.name!r}: its options cannot be flags: {one_line(str(error))}") from error
    unset = next((option.name for option in options if option.default is inspect.Parameter.empty), None)
    if unset is not None:
        raise UserError(f"the reader {reader.name!r}: its option {unset!r} needs a default")
    return options


def _add_recordings_flags(command: argparse.ArgumentParser, options: Sequence[Field] = ()) -> None:
    command.add_argument("root", nargs="+", type=expanded, help="folder or file with recordings; several may be given")
    _add_output_flags(command, _PREPARATION)
    if options:
        add_flags(command.add_argument_group("reading"), list(options), taken=_TAKEN)
    add_flags(command.add_argument_group("preprocessing"), _PREPROCESS)


def _add_merge(commands) -> None:
    """Adds the sub-commands that make a store from stores."""
    out = argparse.ArgumentParser(add_help=False)
    out.add_argument("--out", required=True, type=expanded, metavar="STORE", help="folder or URL of the store to make")
    out.add_argument(
        "--split-file",
        type=expanded,
        metavar="FILE",
        help="splits all participants anew: CSV (participant,split) or JSON (participant: split)",
    )
    command = commands.add_parser("merge", parents=[out], help="merge stores into one, without copying their segments")
    command.add_argument(
        "store",
        nargs="+",
        type=expanded,
        help="folder or URL of a store; the new store refers to its files, so do not move it",
    )
    command.add_argument("--overwrite", action="store_true", help="replace the store that exists at the target")
    command = commands.add_parser(
        "append", parents=[out], help="add recordings to a store as a new version, without copying its segments"
    )
    command.add_argument("store", type=expanded, help="folder or URL of the store, which must stay in its place")
    command.add_argument(
        "root", nargs="+", type=expanded, help="folder or file with new recordings; several may be given"
    )
    add_flags(command, _PREPARATION)


def _add_output_flags(parser: argparse.ArgumentParser, preparation: list[Field]) -> None:
    parser.add_argument(
        "--out", required=True, type=expanded, metavar="STORE", help="folder or URL of the store to make"
    )
    add_flags(parser, preparation)
    group = parser.add_argument_group("split")
    group.add_argument(
        "--split-file",
        type=expanded,
        metavar="FILE",
        help="CSV (participant,split) or JSON (participant: split); split is train, validation or test",
    )
    group.add_argument(
        "--split-seed",
        type=int,
        default=0,
        metavar="SEED",
        help="without a file, a hash with this seed splits the participants (default: 0); choose another seed, or other "
        "fractions, if few participants leave a split too small",
    )
    group.add_argument(
        "--split-fractions",
        type=float,
        nargs=3,
        default=SplitRule.fractions,
        metavar=("TRAIN", "VALIDATION", "TEST"),
        help="fractions of participants, without a file (default: 0.8 0.1 0.1)",
    )


def _split(args: argparse.Namespace) -> SplitRule:
    if args.split_file:
        return SplitRule.from_file(args.split_file, seed=args.split_seed)
    return SplitRule(seed=args.split_seed, fractions=tuple(args.split_fractions))


def _verify(args: argparse.Namespace, console: Console) -> None:
    size = verify_checksums(args.store)
    store = Store.open(args.store)
    show.print_line(
        f"{store.path}: whole; {store.num_files} files, {size / 1e6:.1f} MB, fingerprint {store.fingerprint}",
        console,
    )


def _show(args: argparse.Namespace, console: Console) -> None:
    if args.segments < 1:
        raise UserError(f"--segments {args.segments}: must be at least 1")
    store = Store.open(args.store)
    show.print_summary(store, console)
    if args.plot:
        show.plot_segments(store, args.plot, count=args.segments)
        show.print_line(f"plot: {args.plot}", console)


def _merge(args: argparse.Namespace, console: Console) -> None:
    if len(args.store) < 2:
        raise UserError(f"{args.store[0]}: a merge needs at least two stores")
    split = SplitRule.from_file(args.split_file) if args.split_file else None
    store = merge_stores(
        args.store, args.out, split=split, overwrite=args.overwrite, say=lambda line: show.print_line(line, console)
    )
    show.print_summary(store, console)


def _append(args: argparse.Namespace, console: Console) -> None:
    store = append_recordings(
        args.store,
        args.root,
        args.out,
        split=SplitRule.from_file(args.split_file) if args.split_file else None,
        preparation=PreparationSettings(**chosen_fields(args, _PREPARATION)),
        report=lambda line: show.print_line(line, console),
    )
    show.print_summary(store, console)


def _measure(args: argparse.Namespace, console: Console) -> None:
    if args.segments < 1:
        raise UserError(f"--segments {args.segments}: must be at least 1")
    stores = [Store.open(path) for path in args.store]
    for table in measure.measures_tables(stores, by=args.by, segments=args.segments):
        console.print(table)


def _clocks(args: argparse.Namespace, console: Console) -> None:
    if args.minutes < LEAST_MINUTES:
        raise UserError(f"--minutes {args.minutes}: must be at least {LEAST_MINUTES}")
    if not args.largest >= 0.5:
        raise UserError(f"--largest {args.largest:g}: must be at least 0.5 s")
    for path in args.store:
        clocks = clock_table.measure_clocks(Store.open(path), minutes=args.minutes, largest_s=args.largest)
        show.print_line(path, console)
        console.print(clock_table.clocks_table(clocks))
        for line in clock_table.clock_warnings(clocks):
            show.print_line(line, console)


def _respiration(args: argparse.Namespace, console: Console) -> None:
    stores = [Store.open(path) for path in args.store]
    summary = write_respiration(stores, args.out, min_quality=args.min_quality)
    show.print_line(summary.words, console)
    show.print_line(f"written: {args.out}", console)


def _prepare_synthetic(args: argparse.Namespace, console: Console) -> None:
    preparation = PreparationSettings(**chosen_fields(args, _PREPARATION_SYNTHETIC))
    store = synthetic.write_store(
        args.out,
        synthetic.SyntheticSettings(**chosen_fields(args, _SYNTHETIC)),
        PreprocessSettings(**chosen_fields(args, _PREPROCESS_SYNTHETIC)),
        split=_split(args),
        preparation=preparation,
    )
    show.print_summary(store, console)


def _prepare_recordings(args: argparse.Namespace, console: Console) -> None:
    split = _split(args)
    preparation = PreparationSettings(**chosen_fields(args, _PREPARATION))
    settings = PreprocessSettings(**chosen_fields(args, _PREPROCESS))
    name, options = args.command, {}
    if name == "auto":
        name, why = recognise(args.root)
        show.print_line(f"recognised {name}: {why}", console)
        options = {field.name: field.default for field in function_fields(recordings.reader(name).find)}
        if args.participant_from is not None:
            options |= {OPTION: stated_rule(name, args.participant_from)}
    else:
        options = chosen_fields(args, function_fields(recordings.reader(name).find), taken=_TAKEN)
    found = find_recordings(name, args.root, **options)
    store = prepare_recordings(
        found,
        args.out,
        settings=settings,
        split=split,
        preparation=preparation,
        report=lambda line: show.print_line(line, console),
    )
    show.print_summary(store, console)
    known = store.manifest.get("not_read") or {}  # a store of an earlier start does not name files that are new
    show.print_not_read({path: reason for path, reason in found.not_read.items() if path not in known}, console)


def _with_added_reader(argv: Sequence[str]) -> list[str]:
    """The command line with the name of the reader in place of `--reader FILE`, which is added.

    Raises:
        UserError: the file is missing or no reader, or a command is given too.
    """
    place = next((k for k, word in enumerate(argv) if word == "--reader" or word.startswith("--reader=")), None)
    if place is None:
        return list(argv)
    _, separator, file = argv[place].partition("=")
    rest = [*argv[:place], *argv[place + (1 if separator else 2) :]]
    if not separator:
        file = argv[place + 1] if place + 1 < len(argv) else ""
    known = {*recordings.names(), *RESERVED}
    if rest and rest[0] in known and not os.path.lexists(rest[0]):
        raise UserError(f"--reader {file} takes the place of the command {rest[0]!r}; leave one of them out")
    return [recordings.add_file(expanded(file)), *rest]


def main(argv: Sequence[str] | None = None, *, prog: str = PROG) -> int:
    """Runs a command.

    Returns:
        The exit status: 0; 2 for an error that the user can fix; 128 plus the signal's number if a signal stopped it.
    """

    def work() -> None:
        words = _with_added_reader(sys.argv[1:] if argv is None else argv)
        args = build_parser(prog).parse_args(words)
        if getattr(args, "problem", None):
            raise args.problem
        commands = {
            "verify": _verify,
            "show": _show,
            "measure": _measure,
            "clocks": _clocks,
            "respiration": _respiration,
            "synthetic": _prepare_synthetic,
            "merge": _merge,
            "append": _append,
        }
        commands.get(args.command, _prepare_recordings)(args, Console() if sys.stdout.isatty() else Console(width=140))

    return run_command(work, when_stopped="interrupted; run the same command again to continue")


if __name__ == "__main__":
    sys.exit(main())
