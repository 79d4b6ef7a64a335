"""`python -m accdistill_jax.reproduce [--preset=smoke|cpu|full] ...`; see --help."""

from accdistill_jax.runtime import early_stop  # isort: skip

if __name__ == "__main__":
    early_stop.install()

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from accdistill_jax.config.load import load_config
from accdistill_jax.config.tree import plain
from accdistill_jax.configs import reproduce as presets
from accdistill_jax.errors import ExitStatus, UserError
from accdistill_jax.reproduce.jobs.devices import keep_to_cpu, worker_environments
from accdistill_jax.reproduce.jobs.jobs import JobOutcome, exclusive_folder, finished_seconds, job_folder, run_jobs
from accdistill_jax.reproduce.plan.command_line import PROG, CommandLine, parse_command_line
from accdistill_jax.reproduce.report import check
from accdistill_jax.runtime.interrupt import Interrupted, Interruption
from accdistill_jax.runtime.progress import format_seconds
from accdistill_jax.text import print_error, several_lines

WORK = "accdistill_jax.reproduce.jobs.work:do_work"
MOVED, RUNS_FAILED = 3, 4  # exit statuses of this command alone


def main(argv: Sequence[str], *, prog: str = PROG) -> int:
    """Runs the command line; `prog` is the command's name in messages. Returns the exit status."""
    try:
        wanted = parse_command_line(argv, prog=prog)
        reference = None
        if wanted.check is not None:
            reference = check.load_report(wanted.check)
            wanted = as_in_reference(
                parse_command_line(argv, reference=reference["settings"], prog=prog), reference["settings"]
            )
        early_stop.uninstall()
        with Interruption(at_once=True) as interruption:
            return reproduce(wanted, reference, interruption)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return 128 + stop.signal_number
    except UserError as error:
        print_error(error)
        return ExitStatus.USER_ERROR


def as_in_reference(wanted: CommandLine, reference: Mapping[str, Any]) -> CommandLine:
    """The command line with overrides for what this version's preset has changed since a report, which a check repeats; prints them.

    Args:
        wanted: the command line; with overrides or a preset of its own, it stays as it is.
        reference: settings of the report.
    """
    if (wanted.preset, wanted.overrides) != (reference.get("preset"), tuple(reference.get("overrides", ()))):
        return wanted
    base = load_config(f"{presets.__file__}:{wanted.preset}", wanted.overrides)
    restoring = tuple(check.restoring_overrides(reference, plain(base)).values())
    if restoring:
        report_progress(f"as in the report, unlike this version's preset: {' '.join(restoring)}")
    return wanted._replace(overrides=(*wanted.overrides, *restoring))


def report_progress(line: str) -> None:
    """Prints progress on standard output."""
    print(line, flush=True)


def reproduce(wanted: CommandLine, reference: Mapping[str, Any] | None, interruption: Interruption) -> int:
    """Plans, runs, writes the report and compares it with `reference`; returns the exit status.

    Raises:
        UserError: the user can mend it: a wrong argument, store or folder.
        Interrupted: on Ctrl-C or SIGTERM.
    """
    environments = [{}] if wanted.list_only else keep_to_cpu(worker_environments(wanted.workers))
    # imports jax, which takes seconds: only after the command line was checked
    from accdistill_jax.reproduce.plan import grid

    plan = grid.plan_grid(
        wanted.preset,
        stores=wanted.stores,
        unseen=wanted.unseen,
        only=wanted.only,
        seeds=wanted.seeds,
        overrides=wanted.overrides,
    )
    if reference is not None and (repeated := {run["variant"] for run in reference["runs"] if "variant" in run}):
        plan = grid.among_variants(plan, repeated)
    settings = wanted.settings | plan.settings
    if reference is not None:  # refused now, not after hours
        check.check_alike(reference["settings"], settings)
        _refuse_unusable_runs(plan.jobs, wanted)
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
    outcomes = run_jobs(plan.jobs, wanted.out, work=WORK, environments=environments, say=report_progress)

    from accdistill_jax.reproduce.measure import measure
    from accdistill_jax.reproduce.report.write import to_dict, write_grid_report

    def step(line: str) -> None:
        # checked again, because Python ignores a signal's exception if it is raised in a finaliser
        interruption.raise_if_requested("finished runs are kept")
        report_progress(line)

    report = measure.measure_report(plan, outcomes, say=step)
    interruption.raise_if_requested("finished runs are kept")
    report = report._replace(settings={**settings, **report.settings})
    page = write_grid_report(wanted.out, report)
    failed = _print_failures(outcomes)
    report_progress(f"report: {page}")
    status = ExitStatus.FINISHED
    if reference is not None:
        cached = sum(outcome.status == "cached" for outcome in outcomes.values())
        if cached:
            report_progress(f"{cached} of {len(outcomes)} runs in {wanted.out} were already finished")
        compared = check.deviations(reference, to_dict(report), only=wanted.compared)
        report_progress(f"\nCompared with {wanted.check}:\n{check.comparison_table(compared)}")
        status = MOVED if any(deviation.why for deviation in compared) else status
    for name, problem in report.broken.items():
        print(f"not measured: {name}: {several_lines(problem)}", file=sys.stderr)
    return RUNS_FAILED if failed or report.broken else status


def _refuse_unusable_runs(jobs: Sequence[Any], wanted: CommandLine) -> None:
    """Raises a UserError if a check would compare a report with itself, or with runs of another version of the code."""
    from accdistill_jax.config.record import source_hash
    from accdistill_jax.reproduce.jobs.work import FACTS

    if wanted.check is not None and wanted.check.resolve().parent == wanted.out.resolve():
        raise UserError(f"--out {wanted.out} holds the report to check and its runs; give another folder")
    current, stale = source_hash(), []
    for job in jobs:
        folder = job_folder(wanted.out, job)
        path = folder / FACTS
        if finished_seconds(folder, job) is not None and path.exists():
            if json.loads(path.read_text()).get("environment", {}).get("source_hash") != current:
                stale.append(job.name)
    if stale:
        raise UserError(
            f"{len(stale)} runs in {wanted.out} (first: {stale[0]}) were made by another version of the source code and would not be "
            "repeated; give another --out"
        )


def _print_failures(outcomes: Mapping[str, JobOutcome]) -> int:
    """Prints the runs that failed; returns the number of runs without a result."""
    failed = {name: outcome for name, outcome in outcomes.items() if outcome.status == "failed"}
    skipped = sum(outcome.status == "skipped" for outcome in outcomes.values())
    for name, outcome in failed.items():
        print(f"failed: {name}: {several_lines(outcome.reason)} ({outcome.folder})", file=sys.stderr)
    if skipped:
        print(f"skipped: {skipped} more runs, because they need a failed run", file=sys.stderr)
    return len(failed) + skipped


def listing(plan: Any, wanted: CommandLine) -> str:
    """Lists the experiments and runs of a plan with their expected durations."""
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
        f"in total {format_seconds(total_s)}, of which {format_seconds(left_s)} are not yet done in {wanted.out}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
