"""The command line of `python -m accdistill_jax.reproduce`."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from accdistill_jax.config.load import is_override, parse_overridable
from accdistill_jax.config.nearest import nearest
from accdistill_jax.errors import UserError
from accdistill_jax.user_paths import expanded, path_argument

PROG = "python -m accdistill_jax.reproduce"
SYNTHETIC = "synthetic"
PRESETS = {
    "smoke": "every code path, about two minutes",
    "cpu": "under six hours on two cores",
    "full": "models and corpus of full size, for accelerators",
}


class CommandLine(NamedTuple):
    """Parsed command line.

    Attributes:
        preset: one of `PRESETS`.
        stores: to train on; empty for synthetic data.
        unseen: stores that are only evaluated on.
        only: ids of experiments, globs allowed; empty for all.
        seeds: training seeds of each run; None for the preset's.
        overrides: "--config.KEY=VALUE" each.
        out: folder for everything.
        list_only: whether to print the plan and run nothing.
        check: the report to compare with.
        compared: experiments whose numbers are compared; empty for all of the report's.
        workers: processes; None for what fits the devices.
    """

    preset: str
    stores: tuple[str, ...]
    unseen: tuple[str, ...]
    only: tuple[str, ...]
    seeds: int | None
    overrides: tuple[str, ...]
    out: Path
    list_only: bool
    check: Path | None
    compared: tuple[str, ...]
    workers: int | None

    @property
    def settings(self) -> dict[str, Any]:
        """As they stand in the report, from which --check takes them."""
        found = {"preset": self.preset, "data": list(self.stores) or [SYNTHETIC], "unseen": list(self.unseen)}
        found |= {"only": list(self.only), "overrides": list(self.overrides)}
        return found | ({} if self.seeds is None else {"seeds": self.seeds})


class Parser(argparse.ArgumentParser):
    """Raises a UserError instead of printing its usage."""

    def error(self, message: str) -> None:
        raise UserError(f"{message}; see --help")


def reproduce_parser(prog: str = PROG) -> argparse.ArgumentParser:
    """The parser; what it does not know must be overrides of the config."""
    parser = Parser(
        prog=prog,
        description="Runs every experiment on the paper's claims and writes one report: report.html, report.md and report.json. "
        "The same command again continues, and does not repeat what is finished. Settings of the config of all runs: "
        "--config.KEY=VALUE.",
        epilog="Exit status: 0 all is done; 2 something to put right, told in one line; 3 --check found that something moved; "
        "4 some runs or experiments failed, which the report names; 129 stopped by SIGHUP, 130 by Ctrl-C, 143 by SIGTERM, what is done "
        "being kept.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--data",
        nargs="+",
        type=expanded,
        metavar="STORE",
        help=f"{SYNTHETIC}, or prepared stores to train and evaluate on (default {SYNTHETIC})",
    )
    parser.add_argument(
        "--unseen",
        nargs="+",
        type=expanded,
        metavar="STORE",
        help="stores of other devices that are evaluated on alone",
    )
    presets = "; ".join(f"{name}: {text}" for name, text in PRESETS.items())
    parser.add_argument("--preset", choices=PRESETS, help=f"{presets} (default cpu)")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="experiments, as --list names them; * and ? stand for others"
    )
    parser.add_argument(
        "--seeds", type=_positive, metavar="N", help="training seeds of each run (default: the preset's)"
    )
    parser.add_argument(
        "--out", type=path_argument, metavar="DIR", help="folder for everything (default runs/reproduce-PRESET)"
    )
    parser.add_argument(
        "--list", action="store_true", help="print experiments and runs with their expected durations; run nothing"
    )
    parser.add_argument(
        "--check",
        type=path_argument,
        metavar="REPORT.json",
        help="do what made that report again and compare (REPORT.json.gz too); what is not given here is taken from it (default folder "
        "runs/reproduce-PRESET-check)",
    )
    parser.add_argument(
        "--workers",
        type=_workers,
        default="auto",
        metavar="auto|N",
        help="runs at a time (default: one for each GPU; one on a CPU)",
    )
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def _workers(text: str) -> int | None:
    return None if text == "auto" else _positive(text)


def parse_command_line(
    argv: Sequence[str], *, reference: Mapping[str, Any] | None = None, prog: str = PROG
) -> CommandLine:
    """Reads the command line.

    Args:
        argv: without the program's name.
        reference: settings of the report that --check names; stands in for what is not given.
        prog: the command's name in its help.

    Raises:
        UserError: it is wrong.
    """
    given, rest = parse_overridable(reproduce_parser(prog), argv)
    for text in rest:
        if not is_override(text):
            options = ("--data", "--unseen", "--preset", "--only", "--seeds", "--out", "--list", "--check", "--workers")
            near = nearest(text.partition("=")[0], options)
            raise UserError(f"unknown argument {text!r}" + (f"; did you mean {near}?" if near else "; see --help"))
    taken = reference or {}
    data = tuple(given.data or taken.get("data", (SYNTHETIC,)))
    if SYNTHETIC in data and len(data) > 1:
        raise UserError(f"--data {' '.join(data)}: {SYNTHETIC} is not combined with stores")
    preset = given.preset or taken.get("preset", "cpu")
    if preset not in PRESETS:
        raise UserError(
            f"{given.check} was made with preset {preset!r}; this version of the package has {', '.join(PRESETS)}"
        )
    return CommandLine(
        preset=preset,
        stores=() if data == (SYNTHETIC,) else data,
        unseen=tuple(given.unseen or taken.get("unseen", ())),
        only=tuple(given.only or taken.get("only", ())),
        seeds=given.seeds or taken.get("seeds"),
        overrides=tuple(rest or taken.get("overrides", ())),
        out=given.out or Path("runs") / f"reproduce-{preset}{'-check' if given.check else ''}",
        list_only=given.list,
        check=given.check,
        compared=tuple(given.only or ()) if given.check else (),
        workers=given.workers,
    )
