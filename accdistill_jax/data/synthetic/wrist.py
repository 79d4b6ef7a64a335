"""Wrists and watches of the second generator: sensor, clocks, and the way from the heart to the watch.

Every quantity is a range; each participant, with a device, has a place in it. A trait of the first generator that shows in the
acceleration (ballistocardiogram, tremor, tilt by breathing) keeps its rank among people. So answers about health that depend on
such traits stay as predictable as they are.

"Measured" names results of `python -m accdistill_jax.data.prepare measure` and of spectra of calm minutes, from recordings of an
Empatica EmbracePlus (six wearers), a Verily Study Watch (one) and a Polar Verity Sense (one). The ranges were chosen while looking
at these wearers, so a test on them is no test on unseen people.
"""

import dataclasses
import math
from typing import NamedTuple

import numpy as np

from accdistill_jax.data.synthetic.physiology import Physiology

_STREAM = 4  # number of the random stream, see `physiology.random_stream`


class Device(NamedTuple):
    """An accelerometer: sampling rate, resolution and range as a maker documents them, and its share of all devices."""

    rate_hz: int
    step_g: float
    range_g: float
    share: float

    @property
    def name(self) -> str:
        """Its name in stores."""
        return f"synthetic {self.rate_hz} Hz"


DEVICES = (
    Device(64, 16.0 / 32768, 16.0, 0.40),  # Empatica EmbracePlus: 16 bit over +-16 g
    Device(100, 0.00469378 / 9.80665, 15.7, 0.25),  # Verily Study Watch: 4.69 mm/s2 per count, 16 bit
    Device(52, 1e-3, 8.0, 0.25),  # Polar Verity Sense: exported in mg
    Device(32, 1.0 / 64, 2.0, 0.10),  # Empatica E4: 8 bit over +-2 g; hides most heartbeats
)


class Range(NamedTuple):
    """Lowest and highest value of a trait over people or devices, and whether it is spread evenly on a log scale."""

    low: float
    high: float
    log: bool = True

    def at(self, place: float) -> float:
        """Value at a place from 0 (lowest) to 1 (highest)."""
        if self.log:
            return self.low * (self.high / self.low) ** place
        return self.low + (self.high - self.low) * place


NOISE_MG = Range(0.1, 0.95)
"""Noise density per device below 10 Hz, mg/sqrt(Hz). Measured at 20 to 30 Hz in calm minutes: Verily 0.3 and less, Polar 0.4,
EmbracePlus 0.5 to 0.75; below 10 Hz EmbracePlus has 0.85 to 0.95, because its filter lets less of the noise pass above. Data
sheets of other sensors go down to 0.1."""
ROLL_OFF = 0.47
"""Frequency at which a sensor's noise has fallen to 0.71, relative to the sampling rate. Measured: EmbracePlus 0.45 to 0.5."""
OFFSET_S = Range(0.005, 1.0)
"""Offset between the clocks of both sensors. Measured: the two streams of an EmbracePlus file start up to 4.5 s apart; their stamps
leave less than 0.1 s. Exports with stamps in whole seconds leave up to 1 s."""
DRIFT_PPM = Range(0.0, 100.0, log=False)
"""Drift between both clocks: crystals of wearables are within 10 to 50 ppm each, by their data sheets."""
RATE_ERROR_PPM = Range(10.0, 1000.0)
"""Deviation of the sampling rate from its nominal value, for both sensors of a device. Measured: EmbracePlus 1 to 92 ppm; Verily
1800 (99.82 Hz) and Polar 5700 (51.7 Hz for 52), most of which stamps correct."""
SYNC_S = Range(0.0, 1800.0, log=False)
"""Time since the clocks were last set: an EmbracePlus writes files of 30 minutes, each with its start."""
BEAT_MG = Range(1.0, 16.0)
"""Peak of the ballistocardiogram. Measured: mean over a minute's beats, peak to peak on the strongest axis, 2.4 to 20 mg."""
TIMING_MS = Range(1.6, 12.0)
"""Standard deviation in a person of the time from R peak to ejection: pre-ejection period by echocardiography, 1.6 to 12.0 ms
within one person (Kortekaas et al. 2018, PLoS ONE 13, e0205105)."""
UNREST_MG = Range(0.3, 10.0)
"""Small motion of a seated, wakeful wrist between movements, standard deviation of the vector in 2 s. Measured, noise subtracted:
below 1 mg in most calm EmbracePlus minutes, 8 mg in one wearer's and in the Verily's; with movements Polar 4.5, EmbracePlus 21."""
TREMOR_MG = Range(0.4, 4.0)
"""Physiological tremor at rest: see `waveforms.render_minute`; wider, as the measured spectra ask for."""
TILT_MG = Range(0.5, 12.0)
"""Tilt of the watch by breathing. Measured: standard deviation at 0.13 to 0.5 Hz 1.0 to 9 mg in calm minutes."""
PULSE_BREATH = Range(0.03, 0.20)
"""Modulation of the pulse's height by breathing (Charlton et al. 2016, Physiol Meas 37)."""
BEAT_BREATH = Range(0.05, 0.40)
"""Modulation of the ballistocardiogram's height by breathing: stroke volume and the body's mass and tension change with the lungs
(Inan et al. 2015, IEEE J Biomed Health Inform 19)."""


class Burst(NamedTuple):
    """A damped oscillation that a beat excites: frequency, decay, start after the beat, and size relative to the first burst."""

    hz: float
    decay_s: float
    start_s: float
    share: float


@dataclasses.dataclass(frozen=True)
class Wrist:
    """One participant's wrist with the watch: sensor, clocks and coupling. Amplitudes are in the unit of their name.

    The clock of the PPG shows true time times (1 + rate_error_ppm / 1e6). That of the accelerometer gains drift_ppm on it, and
    offset_s when both were last set.
    """

    person: Physiology
    device: Device
    noise_mg: float  # density per sqrt(Hz)
    offset_s: float
    drift_ppm: float
    rate_error_ppm: float
    beat_mg: float  # peak of the ballistocardiogram's vector
    bursts: tuple["Burst", ...]  # of which each beat's wave is the sum
    timing_ms: float
    timing_breath: float  # share of the variance of the timing that follows breathing
    beat_breath: float
    pulse_breath: float
    unrest_mg: float
    tremor_mg: float
    tilt_mg: float
    turns: float  # factor on the rate of changes of posture

    def with_clock_error(self, factor: float) -> "Wrist":
        """The same wrist with other clocks: a factor on offset and drift between them."""
        return dataclasses.replace(self, offset_s=factor * self.offset_s, drift_ppm=factor * self.drift_ppm)


def sample_wrist(seed: int, index: int, person: Physiology) -> Wrist:
    """Draws the wrist of participant `index` of the population `seed`.

    Args:
        seed: seed of the population.
        index: index of the participant.
        person: the participant; traits that show in the acceleration keep their rank among people.
    """
    rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed, spawn_key=(index, _STREAM))))
    u = rng.random(24).tolist()
    z = rng.standard_normal(24).tolist()
    device = DEVICES[int(np.searchsorted(np.cumsum([d.share for d in DEVICES])[:-1], u[0], side="right"))]
    sign = [1.0 if v < 0.5 else -1.0 for v in u[1:4]]
    first_hz = min(max(1.12 * person.bcg_hz * math.exp(0.10 * z[0]), 4.0), 10.0)
    return Wrist(
        person=person,
        device=device,
        noise_mg=NOISE_MG.at(u[4]),
        offset_s=sign[0] * OFFSET_S.at(u[5]),
        drift_ppm=sign[1] * DRIFT_PPM.at(u[6]),
        rate_error_ppm=sign[2] * RATE_ERROR_PPM.at(u[7]),
        beat_mg=BEAT_MG.at(_place(person.bcg_mg, 4.0, 0.42)),
        bursts=(
            Burst(first_hz, person.bcg_decay_s, 0.0, 1.0),  # ejection: body and arm
            Burst(2.5 + 2.0 * u[8], 0.06 + 0.08 * u[9], 0.02, 0.7 * u[16]),  # the same, heavier part of the body
            Burst(min(first_hz * (1.4 + 0.8 * u[17]), 14.0), 0.03 + 0.03 * u[18], 0.01, 0.6 * u[10]),  # tissue, strap
            Burst(
                first_hz * (0.8 + 0.4 * u[19]), person.bcg_decay_s, 0.24 + 0.14 * u[20], 0.9 * u[11]
            ),  # end of ejection
        ),
        timing_ms=TIMING_MS.at(u[12]),
        timing_breath=u[13],
        beat_breath=BEAT_BREATH.at(u[14]),
        pulse_breath=PULSE_BREATH.at(u[15]),
        unrest_mg=UNREST_MG.at(_place(person.restlessness, 1.0, 0.5)),
        tremor_mg=TREMOR_MG.at(_place(person.tremor_mg, 0.95, 0.47)),
        tilt_mg=TILT_MG.at(_place(person.respiration_tilt_mg, 3.0, 0.5)),
        turns=math.exp(0.5 * z[1]),
    )


def _place(value: float, median: float, spread: float) -> float:
    """Place of a log-normal value in its distribution, 0 to 1; 0 for a value of 0."""
    return 0.5 * (1.0 + math.erf(math.log(max(value / median, 1e-9)) / (spread * math.sqrt(2.0))))
