"""The contrastive loss between two sensors of a minute, and the scalars that it may train."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from accdistill_jax.config.schema import StudentConfig
from accdistill_jax.objectives import losses
from accdistill_jax.objectives.base import Metrics, Segments

PARAMS = "contrast"  # key of the trained parameters: the loss's scalars; absent if it trains none
_LOG_TEMPERATURE, _BIAS = "log_temperature", "bias"


@dataclasses.dataclass(frozen=True)
class CrossModalContrast:
    """A contrastive loss between the two modalities of a minute, over the global batch.

    Trained are params["contrast"]: "log_temperature" [] if there are bounds, and "bias" [] of the sigmoid loss.

    Attributes:
        temperature: of the similarities; if it is learned, its start.
        teacher_to_student_weight: lambda of `lambda * L(t->s) + (1 - lambda) * L(s->t)`. The sigmoid loss has no direction.
        loss: "infonce", a softmax over the batch in each direction, or "sigmoid", each pair by itself.
        temperature_bounds: (smallest, largest) learned temperature, or () for a fixed one.
        bias: start of the sigmoid loss's bias.
        same_person: minutes of one person that follow one another in the batches, see `Segments`.
        same_rate: minutes of about the same heart rate that do.

    Source: arXiv 2412.11276 (InfoNCE in both directions, as in the paper's method); Radford et al. 2021, arXiv 2103.00020
    (learned temperature, clipped after each update); Zhai et al. 2023, arXiv 2303.15343 (sigmoid loss).
    """

    temperature: float
    teacher_to_student_weight: float
    loss: str = "infonce"
    temperature_bounds: tuple[float, ...] = ()
    bias: float = 0.0
    same_person: int = 1
    same_rate: int = 1

    @classmethod
    def from_config(cls, section: StudentConfig) -> "CrossModalContrast":
        """The loss of a student's config section."""
        chosen = section.contrast
        return cls(
            section.temperature,
            section.teacher_to_student_weight,
            chosen.loss,
            tuple(chosen.temperature_bounds),
            chosen.bias,
            chosen.same_person,
            chosen.same_rate,
        )

    @property
    def batches(self) -> Segments:
        """The batches that it wants."""
        return Segments(self.same_person, self.same_rate)

    def with_scalars(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """An objective's initial parameters, with the scalars of this loss if it trains any."""
        scalars = {}
        if self.temperature_bounds:
            scalars[_LOG_TEMPERATURE] = jnp.float32(math.log(self.temperature))
        if self.loss == "sigmoid":
            scalars[_BIAS] = jnp.float32(self.bias)
        return {**params, PARAMS: scalars} if scalars else dict(params)

    def rows(self, params: Mapping[str, Any], count: int) -> dict[str, jax.Array]:
        """The scalars as rows of equal values [count], for `Objective.rows`: so their gradient comes with that of the segments."""
        scalars = params.get(PARAMS, {})
        return {f"{PARAMS}_{name}": jnp.broadcast_to(value, (count,)) for name, value in scalars.items()}

    def constrained(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """An objective's parameters with the temperature inside its bounds; see `Objective.constrained`."""
        if not self.temperature_bounds:
            return dict(params)
        low, high = map(math.log, self.temperature_bounds)
        scalars = dict(params[PARAMS])
        scalars[_LOG_TEMPERATURE] = jnp.clip(scalars[_LOG_TEMPERATURE], low, high)
        return {**params, PARAMS: scalars}

    def __call__(self, rows: Mapping[str, jax.Array], axis_name: str | None) -> tuple[jax.Array, Metrics]:
        """The loss.

        Args:
            rows: "teacher" and "student" [b, P] of unit norm, and the arrays of `rows`.
            axis_name: mapped axis of the devices that share the batch; None: one device.

        Returns:
            The loss [] float32, and metrics: the loss of each direction or of all pairs, and the learned scalars.
        """
        temperature, metrics = self.temperature, {}
        if self.temperature_bounds:
            temperature = jnp.exp(rows[f"{PARAMS}_{_LOG_TEMPERATURE}"][0])
        metrics["temperature"] = jnp.float32(temperature)
        if self.loss == "sigmoid":
            bias = rows[f"{PARAMS}_{_BIAS}"][0]
            value = losses.pairwise_sigmoid(
                rows["student"], rows["teacher"], temperature=temperature, bias=bias, axis_name=axis_name
            )
            return value, {"pairs": value, "contrast_bias": bias, **metrics}
        t_to_s = losses.info_nce(rows["teacher"], rows["student"], temperature=temperature, axis_name=axis_name)
        s_to_t = losses.info_nce(rows["student"], rows["teacher"], temperature=temperature, axis_name=axis_name)
        value = self.teacher_to_student_weight * t_to_s + (1.0 - self.teacher_to_student_weight) * s_to_t
        return value, {"teacher_to_student": t_to_s, "student_to_teacher": s_to_t, **metrics}
