"""`python -m accdistill_jax.reproduce [--preset=smoke|cpu|full] ...`: see --help."""

from accdistill_jax.runtime import early_stop  # isort: skip

if __name__ == "__main__":
    early_stop.install()

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from accdistill_jax.errors import ExitStatus, UserError
from accdistill_jax.reproduce.jobs.devices import keep_to_cpu, worker_environments
from accdistill_jax.reproduce.jobs.jobs import Outcome, exclusive_folder, finished_seconds, job_folder, run_jobs
from accdistill_jax.reproduce.plan.command_line import PROG, CommandLine, parse_command_line
from accdistill_jax.reproduce.report import check
from accdistill_jax.runtime.interrupt import Interrupted, Interruption
from accdistill_jax.runtime.progress import format_seconds
from accdistill_jax.text import print_error, several_lines

WORK = "accdistill_jax.reproduce.jobs.work:do_work"
MOVED, RUNS_FAILED = 3, 4  # exit statuses besides those of every command


def main(argv: Sequence[str], *, prog: str = PROG) -> int:
    """Runs the command line; `prog` is the command's name in messages. Returns the exit status."""
    try:
        wanted = parse_command_line(argv, prog=prog)
        reference = None
        if wanted.check is not None:
            reference = check.load_report(wanted.check)
            wanted = parse_command_line(argv, reference=reference["settings"], prog=prog)
        early_stop.uninstall()
        with Interruption(at_once=True) as interruption:
            return reproduce(wanted, reference, interruption)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return 128 + stop.signal_number
    except UserError as error:
        print_error(error)
        return ExitStatus.USER_ERROR


def report_progress(line: str) -> None:
    """Prints progress on standard output."""
    print(line, flush=True)


def reproduce(wanted: CommandLine, reference: Mapping[str, Any] | None, interruption: Interruption) -> int:
    """Plans, runs, writes the report and compares it with `reference`; returns the exit status.

    Raises:
        UserError: something the user can put right.
        Interrupted: on Ctrl-C or SIGTERM.
    """
    environments = [{}] if wanted.list_only else keep_to_cpu(worker_environments(wanted.workers))
    # they import jax, which takes seconds, after the command line is known to be right
    from accdistill_jax.reproduce.plan import grid

    plan = grid.plan_grid(
        wanted.preset,
        stores=wanted.stores,
        unseen=wanted.unseen,
        only=wanted.only,
        seeds=wanted.seeds,
        overrides=wanted.overrides,
    )
    settings = wanted.settings | plan.settings
    if reference is not None:  # told now, not after hours
        known = [key for key in check.SETTINGS if key in settings]
        check.check_alike(*({key: one.get(key) for key in known} for one in (reference["settings"], settings)))
        _refuse_what_is_there(plan.jobs, wanted)
    if wanted.list_only:
        print(listing(plan, wanted))
        return ExitStatus.FINISHED
    with exclusive_folder(wanted.out, named=wanted.out):
        return _run_and_report(plan, wanted, reference, interruption, settings, environments)


def _run_and_report(
    plan: Any,
    wanted: CommandLine,
    reference: Mapping[str, Any] | None,
    interruption: Interruption,
    settings: Mapping[str, Any],
    environments: Sequence[Mapping[str, str]],
) -> int:
    outcomes = run_jobs(
        plan.jobs, wanted.out, work=WORK, workers=len(environments), environments=environments, say=report_progress
    )

    from accdistill_jax.reproduce.measure import measure
    from accdistill_jax.reproduce.report.write import to_dict, write_grid_report

    def step(line: str) -> None:
        # once more where the signal's exception was lost: Python ignores those in finalisers
        interruption.raise_if_requested("what is finished is kept")
        report_progress(line)

    report = measure.measure_report(plan, outcomes, say=step)
    interruption.raise_if_requested("what is finished is kept")
    report = report._replace(settings=settings | report.settings)
    page = write_grid_report(wanted.out, report)
    failed = _tell_failures(outcomes)
    report_progress(f"report: {page}")
    status = ExitStatus.FINISHED
    if reference is not None:
        cached = sum(one.status == "cached" for one in outcomes.values())
        if cached:
            report_progress(f"{cached} of {len(outcomes)} runs were finished before this start in {wanted.out}")
        compared = check.deviations(reference, to_dict(report), only=wanted.compared)
        report_progress(f"\nCompared with {wanted.check}:\n{check.comparison_table(compared)}")
        status = MOVED if any(one.why for one in compared) else status
    for name, problem in report.broken.items():
        print(f"not measured: {name}: {several_lines(problem)}", file=sys.stderr)
    return RUNS_FAILED if failed or report.broken else status


def _refuse_what_is_there(jobs: Sequence[Any], wanted: CommandLine) -> None:
    """Raises UserError where a check would compare a report with itself, or with what another version of the code made."""
    from accdistill_jax.config.record import source_hash
    from accdistill_jax.reproduce.jobs.work import FACTS

    if wanted.check.resolve().parent == wanted.out.resolve():
        raise UserError(f"--out {wanted.out} holds the report that is checked, and its runs; give another folder")
    own, stale = source_hash(), []
    for job in jobs:
        folder = job_folder(wanted.out, job)
        path = folder / FACTS
        if finished_seconds(folder, job) is not None and path.exists():
            if json.loads(path.read_text()).get("environment", {}).get("source_hash") != own:
                stale.append(job.name)
    if stale:
        raise UserError(
            f"{len(stale)} runs in {wanted.out}, {stale[0]} the first, were made by another version of the source code and would "
            "not be done again; give another --out"
        )


def _tell_failures(outcomes: Mapping[str, Outcome]) -> int:
    """Names the runs that failed; returns how many runs have no result."""
    failed = {name: one for name, one in outcomes.items() if one.status == "failed"}
    skipped = sum(one.status == "skipped" for one in outcomes.values())
    for name, one in failed.items():
        print(f"failed: {name}: {several_lines(one.reason)} ({one.folder})", file=sys.stderr)
    if skipped:
        print(f"{skipped} more runs were left out, which need one of these", file=sys.stderr)
    return len(failed) + skipped


def listing(plan: Any, wanted: CommandLine) -> str:
    """The experiments and runs of a plan with their expected durations."""
    width = max((len(name) for name in [*(e.id for e in plan.experiments), *(j.name for j in plan.jobs)]), default=0)
    lines = [f"{len(plan.experiments)} experiments:"]
    lines += [f"  {e.id:{width}}  {e.title} ({len(e.runs)} runs)" for e in plan.experiments]
    lines += ["", f"{len(plan.jobs)} runs, expected durations on one device:"]
    left_s = 0.0
    for job in plan.jobs:
        took_s = finished_seconds(job_folder(wanted.out, job), job)
        left_s += job.cost_s if took_s is None else 0.0
        text = format_seconds(job.cost_s) if took_s is None else f"finished in {format_seconds(took_s)}"
        lines.append(f"  {job.name:{width}}  {text}" + (f", after {', '.join(job.needs)}" if job.needs else ""))
    total_s = sum(job.cost_s for job in plan.jobs)
    lines += [
        "",
        f"together {format_seconds(total_s)}, of which {format_seconds(left_s)} are left to do in {wanted.out}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
