"""From nothing to an embedded minute and a plot, in a few minutes on two CPU cores.

Run the whole file with `python -m accdistill_jax.tutorial.first_minute`, or cell by cell in an editor that knows `# %%`
(VS Code, PyCharm, Spyder). Everything is written to the folder `runs/tutorial`. A second start skips the training.
"""

# %% [markdown]
# ## 1. Train a teacher and a student
#
# The data stage generates 150 synthetic people with 30 minutes each: PPG and acceleration with known heart rates. The teacher learns
# from PPG without labels. The student then learns to give acceleration the embedding that the teacher gives to the PPG of the same minute.
#
# The command is the main job in the paper's form (preset `mean`), with fewer people and steps. Half of the student's tokens are left
# out of each step, and a regression of the teacher's embedding is added to the contrastive loss: both help short trainings.

# %%
import subprocess
import sys
from pathlib import Path

RUN = Path("runs/tutorial")
TRAINING = [
    "--config=distill:mean",
    "--config.data.synthetic.participants=150",
    "--config.data.synthetic.segments_per_participant=30",
    "--config.teacher.train.duration=300 steps",
    "--config.teacher.train.batch_size=64",
    "--config.student.train.duration=400 steps",
    "--config.student.train.batch_size=64",
    "--config.student.drop_fraction=0.5",
    "--config.student.regression_weight=1.0",
]
subprocess.run([sys.executable, "-m", "accdistill_jax.main", f"--workdir={RUN}", *TRAINING], check=True)

# %% [markdown]
# `runs/tutorial/report.md` now gives the results of the student on people that it has never seen.
#
# ## 2. Load the student and some minutes
#
# The store holds all minutes; `indices("test")` are the rows of the unseen people.

# %%
import accdistill_jax as ad

encoder = ad.load(RUN)
store = ad.open_store(RUN / "data" / "synthetic")
rows = store.indices("test")
heart_rate = store.segments["hr_bpm"][rows]
print(
    f"{encoder.part}: {encoder.samples} samples of {encoder.channels} channels in {encoder.unit} -> {encoder.embedding_size}"
)
print(f"{len(rows)} test minutes, heart rates of {heart_rate.min():.0f} to {heart_rate.max():.0f} bpm")

# %% [markdown]
# ## 3. Embed one minute, and all of them
#
# `read_signals` gives physical units. An array of your own works as well, if it is acceleration in g, 64 Hz, 60 s.

# %%
minute = store.read_signals(rows[:1])["accel"]
embedding = encoder.encode(minute)
embeddings = encoder.encode(store.read(rows))
print(f"a minute {minute.shape} -> an embedding {embedding.shape}; all test minutes: {embeddings.shape}")

# %% [markdown]
# ## 4. Read the heart rate from the embedding
#
# A linear probe is ridge regression on frozen embeddings. It is fitted on people of the training split, and tested on unseen people.

# %%
import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

train = store.indices("train")
labels = store.segments["hr_bpm"]
train, test = train[np.isfinite(labels[train])], np.isfinite(heart_rate)
probe = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 4, 13)))
probe.fit(encoder.encode(store.read(train)), labels[train])
predicted = probe.predict(embeddings)
error = np.abs(predicted - heart_rate)[test].mean()
guess = np.abs(labels[train].mean() - heart_rate)[test].mean()
print(f"heart-rate error on unseen people: {error:.1f} bpm; a constant guess: {guess:.1f} bpm")

# %% [markdown]
# ## 5. Plot
#
# Left: ten seconds of acceleration. Right: principal components of the test embeddings. Each point is a minute; if the colours
# change gradually over the plot, minutes with similar heart rates lie together.

# %%
import matplotlib.pyplot as plt
from sklearn.decomposition import PCA

figure, (signal, components) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
samples = int(10 * encoder.rate_hz)
for axis, name in enumerate(store.channels["accel"]):
    values = 1000 * minute[0, :samples, axis]
    signal.plot(np.arange(samples) / encoder.rate_hz, values - values.mean() + 12 * (1 - axis), lw=1, label=name)
signal.set(
    xlabel="time (s)", ylabel="acceleration (mg, shifted)", title=f"A minute at {heart_rate[0]:.0f} bpm (first 10 s)"
)
signal.legend(ncols=3, loc="upper right")
signal.margins(x=0, y=0.2)
points = PCA(2).fit_transform(StandardScaler().fit_transform(embeddings))
shown = components.scatter(*points.T, c=heart_rate, s=12)
figure.colorbar(shown, ax=components, label="true heart rate (bpm)")
components.set(xlabel="principal component 1", ylabel="principal component 2")
components.set_title(f"Embeddings of unseen people (probe: {error:.1f} bpm)")
figure.savefig(RUN / "first_minute.png", dpi=120)
print(f"plot: {RUN / 'first_minute.png'}")
