"""The grid: its runs, the runs that they need, and the keys that identify a run."""

import shutil

import pytest

from accdistill_jax.config.convert import parse_config
from accdistill_jax.config.duration import duration_steps
from accdistill_jax.errors import UserError
from accdistill_jax.models.build import build_encoder, compute_dtype, parameter_count
from accdistill_jax.reproduce.jobs.schedule import Schedule
from accdistill_jax.reproduce.measure.repeats import OFTEN
from accdistill_jax.reproduce.plan import grid, variants
from accdistill_jax.reproduce.plan.experiments import EXPERIMENTS
from accdistill_jax.reproduce.plan.job_builder import DATA
from accdistill_jax.reproduce.plan.scales import SCALES, VALIDATIONS, all_variants


@pytest.fixture(scope="module")
def cpu():
    return grid.plan_grid("cpu")


@pytest.fixture(scope="module")
def claims():
    return grid.plan_grid("claims")


def jobs(plan):
    return {job.name: job for job in plan.jobs}


@pytest.mark.parametrize("preset", SCALES)
def test_every_preset_is_a_graph_of_valid_runs(preset):
    plan = grid.plan_grid(preset)
    Schedule(plan.jobs)
    known = {variant.name for variant in all_variants(SCALES[preset])}
    assert {name for experiment in EXPERIMENTS.values() for name in experiment.variants} <= known
    assert all(experiment.runs for experiment in plan.experiments)
    for job in plan.jobs:
        if job.order["kind"] != DATA and job.order["teacher"]:
            assert job.order["teacher"] in job.needs
    assert sum(job.cost_s for job in plan.jobs) > 0


def test_the_cpu_preset_has_all_main_runs_with_three_seeds(cpu):
    names = set(jobs(cpu))
    for main in (
        "teacher-mae",
        "student",
        "student-mean",
        "student-small",
        "student-tiny",
        "no-augmentation",
        "joint",
        "accel-mae",
        "accel-contrastive",
        "accel-contrastive-segment",
        "untrained",
    ):
        assert {f"{main}-s{seed}" for seed in range(3)} <= names
    supervised = [name for name in names if name.startswith("supervised-")]
    assert sum("-people-" not in name for name in supervised) == 3 * 4 * 3
    assert sum("-people-" in name for name in supervised) == 3 * 2 * 3
    assert sum(job.cost_s for job in cpu.jobs) < 5 * 3600
    population = cpu.settings["config"]["data"]["synthetic"]
    assert population["seed"] == 1 and population["participants"] == 600


def test_held_out_people_are_refused(smoke_store):
    """Trainings would take other splits than embeddings and measures, and train on people who are tested."""
    with pytest.raises(UserError, match="held_out is not for the grid"):
        grid.plan_grid("smoke", stores=(str(smoke_store),), overrides=("--config.data.held_out=('x',)",))


def test_a_seed_of_the_base_config_is_refused_because_no_run_has_it():
    with pytest.raises(UserError, match="config.seed would change nothing"):
        grid.plan_grid("smoke", overrides=("--config.seed=5",))


def test_unseen_stores_have_other_names_and_contents_than_training_stores(smoke_store, tmp_path):
    copy = shutil.copytree(smoke_store, tmp_path / smoke_store.name)
    with pytest.raises(UserError, match="--unseen: .* is one of the stores trained on"):
        grid.plan_grid("smoke", stores=(str(smoke_store),), unseen=(str(copy),))
    with pytest.raises(UserError, match=f"--unseen names two stores called '{smoke_store.name}'"):
        grid.plan_grid("smoke", unseen=(str(smoke_store), str(copy)))
    with pytest.raises(UserError, match="--unseen: .* has PPG channels 2, the synthetic data .*ppg_channels.* has 1"):
        grid.plan_grid("smoke", unseen=(str(smoke_store),), overrides=("--config.data.synthetic.ppg_channels=1",))


def test_an_unseen_store_adds_no_training(smoke_store, tmp_path):
    copy = shutil.copytree(smoke_store, tmp_path / "other")
    alone = jobs(grid.plan_grid("smoke", only=("failures",)))
    first, both = (
        jobs(grid.plan_grid("smoke", only=("failures", "unseen"), unseen=unseen))
        for unseen in ((str(smoke_store),), (str(smoke_store), str(copy)))
    )
    assert {name: first[name].key for name in alone} == {name: job.key for name, job in alone.items()}
    embedding = {name for name in first if name.endswith("-unseen")}
    trained = set(first) - embedding - {DATA}
    assert embedding == {f"{name}-unseen" for name in trained}
    for name, job in first.items():
        assert (job.key == both[name].key) == (name not in embedding)
    assert set(first["student-s0-unseen"].needs) == {"data", "student-s0", "teacher-mae-s0", "teacher-mae-s0-unseen"}
    assert set(first["accel-mae-s0-unseen"].needs) == {"data", "accel-mae-s0"}


def test_only_the_unseen_experiment_needs_unseen_stores(smoke_store):
    plan = grid.plan_grid("smoke", only=("failures", "unseen"), unseen=(str(smoke_store),))
    runs = {experiment.id: experiment.runs for experiment in plan.experiments}
    assert set(runs["failures"]) == {"teacher-mae-s0", "student-s0"}
    assert {"student-s0", "student-s0-unseen", "classical-s0-unseen"} <= set(runs["unseen"])


def test_a_student_needs_the_teacher_of_its_seed(cpu):
    by_name = jobs(cpu)
    assert by_name["student-s2"].order["teacher"] == "teacher-mae-s2"
    assert by_name["from-teacher-contrastive-s0"].order["teacher"] == "teacher-contrastive-s0"
    assert by_name["applied-25hz-s0"].needs[-1] == "student-s0"
    assert not by_name["accel-mae-s1"].order["teacher"]


def test_compared_variants_have_the_same_duration(cpu):
    duration = lambda name: jobs(cpu)[name].order["config"]["student"]["train"]["duration"]
    whole = {
        duration(f"{name}-s0")
        for name in ("student", "joint", "accel-mae", "accel-contrastive", "no-augmentation", "student-small")
    }
    short = {
        duration(f"{variant.name}-s0")
        for variant in (variants.REFERENCE, *variants.OBJECTIVES, *variants.AUGMENTATION_VARIANTS)
        if variant.name in cpu.variants
    }
    assert len(whole) == 1 and len(short) == 1 and whole != short


@pytest.mark.parametrize("preset", ["cpu", "full"])
@pytest.mark.parametrize("segments", [1000, 1_600_000])
def test_supervised_training_keeps_the_best_step_and_lasts_as_long_as_the_student(preset, segments):
    plan = grid.plan_grid(preset, only=("label-fractions",))

    def steps(train, key, share=1.0):
        return duration_steps(train[key], batch_size=train["batch_size"], num_segments=max(1, round(share * segments)))

    for variant in variants.SUPERVISED:
        train = jobs(plan)[f"{variant.name}-s0"].order["config"]["student"]["train"]
        share = variant.changes["student.supervised.label_fraction"]
        if train["duration"].endswith("epochs") and segments < 1_000_000:
            continue  # too long for a small store
        total = steps(train, "duration", share)
        assert steps(train, "warmup", share) < total
        assert (
            train["keep"] == "best" and VALIDATIONS <= total / steps(train, "validate_every", share) < VALIDATIONS + 1
        )
    whole, student = (
        jobs(plan)[f"{name}-s0"].order["config"]["student"]["train"] for name in ("supervised-hr-1", "student")
    )
    assert whole["duration"] == student["duration"]


@pytest.mark.parametrize(
    "name,low,high", [("size-20th", 12, 25), ("size-5th", 4.5, 6.5), ("size-half", 1.6, 2.4), ("size-equal", 0.8, 1.2)]
)
@pytest.mark.parametrize("preset", ["cpu", "full"])
def test_sizes_match_their_names(preset, name, low, high):
    import jax
    import jax.numpy as jnp

    plan = grid.plan_grid(preset, only=("sizes",))
    config = parse_config(jobs(plan)[f"{name}-s0"].order["config"])

    def count(section, channels):
        module = build_encoder(section, dtype=compute_dtype("float32"))
        return parameter_count(jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 3840, channels)))))

    bands = 1 + config.inputs.accel.bands.count("+")
    ratio = count(config.teacher.encoder, 2) / count(config.student.encoder, 3 * bands)
    assert low <= ratio <= high


def test_the_key_of_a_run_changes_only_with_values_that_decide_its_result(cpu):
    keys = lambda *overrides: {
        job.name: job.key for job in grid.plan_grid("cpu", only=("retrieval",), overrides=overrides).jobs
    }
    before = keys()
    assert keys("--config.runtime.reader_threads=3") == before
    assert keys("--config.data.synthetic.workers=1") == before
    student = keys("--config.student.temperature=0.5")
    assert student["teacher-mae-s0"] == before["teacher-mae-s0"] and student["student-s0"] != before["student-s0"]
    teacher = keys("--config.teacher.train.learning_rate=0.1")
    assert teacher["teacher-mae-s0"] != before["teacher-mae-s0"] and teacher["student-s0"] != before["student-s0"]
    data = keys("--config.data.synthetic.seed=5")
    assert not set(data.values()) & set(before.values())
    assert keys("--config.data.synthetic.generator=1") == before
    assert not set(keys("--config.data.synthetic.generator=2").values()) & {*before.values(), *data.values()}
    assert len(set(before.values())) == len(before)


def test_expected_durations_follow_the_config(cpu):
    """A shorter student must be expected to take less time than the student of the preset."""
    shorter = jobs(grid.plan_grid("cpu", overrides=["--config.student.train.duration=300 steps"]))
    embedding = 3 * SCALES["cpu"].seconds["embed"]
    for name in ("student-s0", "accel-mae-s1", "joint-s0", "student-small-s2"):
        usual = jobs(cpu)[name].cost_s
        assert shorter[name].cost_s - embedding == pytest.approx(300 / 500 * (usual - embedding), rel=0.01)
    other_unit = jobs(grid.plan_grid("cpu", overrides=["--config.student.train.duration=2 epochs"]))
    assert other_unit["student-s0"].cost_s == jobs(cpu)["student-s0"].cost_s


def test_only_selects_the_runs_of_its_experiments():
    plan = grid.plan_grid("cpu", only=("fail*",), seeds=1)
    assert [experiment.id for experiment in plan.experiments] == ["failures"]
    assert set(jobs(plan)) == {"data", "teacher-mae-s0", "student-s0"}


def test_a_plan_among_variants_has_the_runs_of_these_alone():
    plan = grid.plan_grid("trials", seeds=1)
    plan = grid.among_variants(plan, {"teacher-mae", "trial-none", "trial-muon", "removed since"})
    assert plan.experiments[0].variants == ("trial-none", "trial-muon")
    assert set(jobs(plan)) == {"data", "teacher-mae-s0", "trial-none-s0", "trial-muon-s0"}


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"only": ("retrieva",)}, "did you mean retrieval"),
        ({"only": ("unseen",)}, "needs --unseen STORE"),
        ({"overrides": ("--config.student.temperatuur=1",)}, "did you mean config.student.temperature"),
        ({"overrides": ("--config.data.stores=('a',)",)}, "set by --data"),
        ({"stores": ("no/such/store",)}, "no/such/store"),
    ],
)
def test_a_wrong_argument_is_refused_in_one_line(arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        grid.plan_grid("smoke", **arguments)
    assert "\n" not in str(caught.value)


def test_the_claims_take_at_most_90_minutes_and_measure_each_claim(claims):
    assert sum(job.cost_s for job in claims.jobs) <= 90 * 60
    assert {experiment.id for experiment in claims.experiments} >= {
        "label-fractions",
        "large-pool",
        "many-people",
        "repeated-minutes",
        "shared-motion",
        "participants",
        "objectives",
        "teachers",
    }
    assert {"no-augmentation-s0", "minutes-500-plain-s0", "minutes-500-mean-plain-s0"} <= set(jobs(claims))


def test_the_cpu_preset_continues_the_runs_of_the_claims(cpu, claims):
    keys = {job.name: job.key for job in cpu.jobs}
    assert {job.name: job.key for job in claims.jobs}.items() <= keys.items()


def test_some_students_see_their_minutes_often_enough_to_decide_the_claim_on_augmentation(cpu, claims):
    for plan in (cpu, claims):
        epochs = {}
        for name, job in jobs(plan).items():
            if name.startswith("minutes-"):
                config = job.order["config"]
                steps, train = int(config["student"]["train"]["duration"].split()[0]), config["student"]["train"]
                epochs[name] = steps * train["batch_size"] / config["data"]["store_cap"]
        often = {name for name, count in epochs.items() if count >= OFTEN}
        assert any(name.replace("-plain", "-augmented") in often for name in often if "-plain" in name), epochs


def test_every_encoder_has_the_same_inputs_and_the_same_read_out(cpu, claims):
    for plan in (cpu, claims):
        configs = [job.order["config"] for job in plan.jobs if "config" in job.order]
        simulated = {"simulated_rate_fraction", "simulated_step", "simulated_axes"}
        inputs = {str({k: v for k, v in c["inputs"]["accel"].items() if k not in simulated}) for c in configs}
        assert {c["evaluation"]["representation"] for c in configs} == {"autocovariance"} and len(inputs) == 1


def test_students_are_in_windows_and_beside_them_in_the_papers_form(cpu):
    by_name = jobs(cpu)
    head = lambda name: by_name[name].order["config"]["student"]["head"]["windows"]
    tokens = lambda name: by_name[name].order["config"]["student"]["token_weight"]
    for name in ("student", "student-small", "student-tiny", "student-short", "size-20th", "minutes-500-plain"):
        assert (head(f"{name}-s0"), tokens(f"{name}-s0")) == (60, 10.0)
    literal = (
        "student-mean",
        "contrast-mean",
        "regression-mse",
        "minutes-500-mean-plain",
        "minutes-17000-mean-augmented",
    )
    for name in (*literal, "accel-mae", "supervised-hr-1"):
        assert (head(f"{name}-s0"), tokens(f"{name}-s0")) == (1, 0.0)
    assert (head("joint-s0"), tokens("joint-s0")) == (60, 0.0)
    sizes = {name: by_name[f"{name}-s0"].order["config"]["student"]["head"] for name in ("student", "student-mean")}
    assert [(size["hidden"], size["output"]) for size in sizes.values()] == [(128, 32), (256, 128)]


def test_labels_of_many_people_are_of_at_least_a_hundred(cpu, claims):
    for plan in (cpu, claims):
        scale = SCALES[plan.settings["preset"]]
        made = jobs(plan)["data-people"].order["synthetic"]
        assert made["segments_per_participant"] == 1
        # 80 % are training people; some minutes are rejected
        assert 0.9 * 0.8 * made["participants"] * scale.people[0.001] >= 100
        order = jobs(plan)["supervised-hr-0.001-people-s0"].order
        assert order["config"]["student"]["supervised"]["label_fraction"] == scale.people[0.001]
        assert order["data"] == order["trained_on"] == "data-people"


def test_encoders_of_the_plan_embed_other_people(cpu):
    job = jobs(cpu)["student-pool-s1"]
    assert set(job.needs) == {"data-pool", "data", "teacher-mae-s1", "student-s1"}
    assert (job.order["data"], job.order["trained_on"], job.order["of_kind"]) == ("data-pool", "data", "student")
    assert jobs(cpu)["teacher-mae-people-s0"].order["of_kind"] == "teacher"
    accel = jobs(cpu)["accel-mae-people-s0"].order
    assert accel["config"]["student"]["objective"] == "masked" and not accel["teacher"]
    shared = jobs(cpu)["joint-shared-10-0.3-s0"]
    assert shared.needs == ("data-shared-10",)
    assert jobs(cpu)["data-shared-10"].order["synthetic"]["shared_motion"] == 10.0


def test_an_experiment_that_the_preset_leaves_out_is_refused():
    with pytest.raises(UserError, match="--only shared-motion: not part of this preset"):
        grid.plan_grid("cpu-mean", only=("shared-motion",))
