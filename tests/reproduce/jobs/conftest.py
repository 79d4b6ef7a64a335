"""Plans of the smoke preset whose jobs have run."""

import pytest

from accdistill_jax.reproduce.jobs import work
from accdistill_jax.reproduce.jobs.jobs import JobOutcome, job_folder
from accdistill_jax.reproduce.plan import grid


@pytest.fixture(scope="session")
def finished_plan(tmp_path_factory):
    """`finished_plan(**options)`: a smoke plan, see `grid.plan_grid`, and the outcomes of its jobs, which ran in this process."""

    def run(**options):
        out = tmp_path_factory.mktemp("reproduce")
        plan = grid.plan_grid("smoke", **options)
        outcomes = {}
        for job in plan.jobs:  # a job comes after the jobs that it needs
            folder = job_folder(out, job)
            folder.mkdir(parents=True)
            work.do_work(job.order, folder, {name: outcomes[name].folder for name in job.needs})
            outcomes[job.name] = JobOutcome("finished", 1.0, "", folder)
        return plan, outcomes

    return run
