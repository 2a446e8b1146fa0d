"""The model card of an exported policy: data, method, settings, scores with their interval, the command, and how it acts."""

from collections.abc import Sequence

import numpy as np

from diffrl import config as configs
from diffrl import escape
from diffrl.acting import Chosen
from diffrl.config import algorithm_name
from diffrl.evaluation.statistics import summarise
from diffrl.export.description import Description
from diffrl.training.runs import in_words

_SNIPPETS = {
    "onnx": """import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("{file}")
inputs = {{"observation": observation[None].astype(np.float32)}}  # [batch, {width}]; what else goes in: {others}
action, *carry = session.run(None, inputs)
""",
    "stablehlo": """import jax
from jax import export

act = jax.jit(export.deserialize(bytearray(open("{file}", "rb").read())).call)
action, *carry = act(observation[None])  # [batch, {width}], float32; what else goes in, in this order: {others}
""",
    "npz": """from read_policy import Policy  # NumPy alone

policy = Policy("{file}")
action = policy(observation)  # [{width}]; policy.reset() where an episode begins
""",
}


def card(chosen: Chosen, written: Sequence[Description], command: str) -> str:
    """Markdown."""
    trained, told = chosen.trained, chosen.trained.card
    method = algorithm_name(trained.config)
    lines = [
        f"# {escape.markdown(method)} on {escape.markdown(told.id)}\n",
        f"A policy of {trained.spec.observation_dim} numbers in, {_actions(written[0])} out. Observations are raw: normalisation "
        "and the bounds of actions are inside.\n",
        "## Training\n",
        f"- data: {escape.markdown(told.id)}, {told.rows:,} transitions of {told.episodes:,} episodes, sha256 {told.sha256[:16]}",
        f"- method: {escape.markdown(method)}, {chosen.step:,} updates, run {chosen.run} (seed {chosen.seed}"
        + (f", {in_words(chosen.point)})" if chosen.point else ")"),
        f"- acting: {escape.markdown(', '.join(f'{name}={value}' for name, value in chosen.act) or 'as trained')}",
        f"- {_scores(chosen)}",
    ]
    if told.description:
        lines.insert(4, f"- of the data: {escape.markdown(told.description)}")
    lines += ["", "## Files\n"]
    for one in written:
        others = ", ".join(tensor.name for tensor in one.inputs[1:]) or "nothing"
        versions = ", ".join(f"{name} {value}" for name, value in one.versions.items())
        lines += [
            f"`{one.file}`: {one.format}, at most {one.difference:.1e} of half an action's range from JAX in a check; "
            f"{versions}. `{one.file}.json` describes what goes in and comes out.\n",
            f"```python\n{_SNIPPETS[one.format].format(file=one.file, width=trained.spec.observation_dim, others=others)}```\n",
        ]
    lines += ["## Settings\n", f"```\n{escape.printable(command)}\n```\n", "```"]
    flat = configs.flatten(configs.to_json(trained.config))
    lines += [escape.printable(f"{name} = {value}") for name, value in sorted(flat.items()) if value not in ("", None, ())]
    return "\n".join([*lines, "```", ""])


def _actions(one: Description) -> str:
    if one.num_actions:
        return f"the index of one of {one.num_actions} actions"
    return f"an action of {len(one.action_low)} numbers"


def _scores(chosen: Chosen) -> str:
    """Of the runs of this point, and of this run."""
    result = chosen.result
    if result is None:
        return "not evaluated at this checkpoint, acting so"
    values, unit = (result.mean_returns, "return") if result.mean_scores is None else (result.mean_scores, "normalised score")
    same = np.array([hparams == chosen.point for hparams in result.hparams])
    summary = summarise(values[same])
    between = "" if summary.interval is None else f", 95 % interval {summary.interval[0]:.1f} … {summary.interval[1]:.1f}"
    return (
        f"{unit}: {values[chosen.run]:.1f} of this run; mean {summary.mean:.1f}{between} of the {summary.runs} runs that differ "
        f"in the seed alone; {result.settings.episodes} episodes a run in {escape.markdown(result.settings.simulator)}"
    )
