"""Planners by name: the choices that are made when acting."""

import dataclasses
from typing import Literal

from jax import Array
from jaxtyping import Float

from diffrl.planning.feedback import Options, feedback
from diffrl.planning.gradient import Annealing, Bound, LearningRate, Weighting, collocation, shooting, transcription
from diffrl.planning.problem import PlanCost, Planner
from diffrl.planning.sampling import cem, mppi
from diffrl.settings import setting

FREE_OBSERVATIONS = ("transcription", "collocation")  # planners whose plans can be held to end in a goal


@dataclasses.dataclass
class Act:
    """Choices made when acting.

    Attributes:
        planner: "feedback" optimises an affine policy by the model's gradients, "feedback_zeroth" by the score
            function, which asks the model for costs alone; so do the last two.
        uncertainty: what `beta` multiplies: the data's likelihood by its score; the variance of the cost over the ensemble
            ("spread"); the learnt distance to the data ("distance"); nothing. A score needs a planner of first order.
        beta: its weight; with "none" it must be 0.
        beta_end: share of β that is left at the last iteration, to which it falls along a cosine; 1 keeps it.
        weighting: "logp" or "dist" (`planning.gradient.Annealing`).
        horizon: T, steps planned ahead.
        num_iterations: of the planner, per action.
        learning_rate, learning_rate_schedule: of the planner's Adam, on actions in [-1, 1]; "cosine" falls to 0.
        bound: of planned actions; the released code has "none".
        warm_start: begin with the plan before, a step further.
        guess_mean, guess_scale: mean and deviation of the first plan's guess.
        defect_weight: of the model's error in a transcription.
        num_samples, num_elites, deviation, temperature: of "cem" and "mppi"; of the first and third "feedback_zeroth" too.
    """

    planner: Literal["shooting", "transcription", "collocation", "feedback", "feedback_zeroth", "cem", "mppi"] = "shooting"
    uncertainty: Literal["score", "spread", "distance", "none"] = "score"
    beta: float = 0.2
    beta_end: float = setting(1.0, high=1.0)
    weighting: Weighting = "logp"
    horizon: int = 8
    num_iterations: int = 50
    learning_rate: float = 0.1
    learning_rate_schedule: LearningRate = "constant"
    bound: Bound = "project"
    warm_start: bool = True
    guess_mean: float = setting(0.0, low=-1.0, high=1.0)
    guess_scale: float = 0.1
    defect_weight: float = 1e4
    num_samples: int = 64
    num_elites: int = 8
    deviation: float = 0.5
    temperature: float = 0.1


def planner_of(act: Act, observation_scale: Float[Array, " observation"], cost: PlanCost) -> Planner:
    """The planner that the choices name; `cost` is what planners over actions minimise."""
    beta = act.beta if act.uncertainty == "score" else 0.0
    annealing = Annealing(
        num_iterations=act.num_iterations,
        learning_rate=act.learning_rate,
        learning_rate_schedule=act.learning_rate_schedule,
        beta=beta,
        beta_min=act.beta_end * beta,
        weighting=act.weighting,
        bound=act.bound,
    )
    match act.planner:
        case "shooting":
            return shooting(annealing, cost)
        case "transcription":
            return transcription(annealing, act.defect_weight, observation_scale)
        case "collocation":
            return collocation(annealing)
        case "feedback":
            return feedback(Options(**dataclasses.asdict(annealing)))
        case "feedback_zeroth":
            options = Options(**dataclasses.asdict(annealing), noise=act.deviation, order="zeroth")
            return feedback(options, act.num_samples)
        case "cem":
            return cem(act.num_iterations, act.num_samples, act.num_elites, act.deviation, cost=cost)
        case _:
            return mppi(act.num_iterations, act.num_samples, act.deviation, act.temperature, cost=cost)
