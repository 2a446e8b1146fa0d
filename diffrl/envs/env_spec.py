"""gymnasium's EnvSpec as text, read without gymnasium: what the backends recognise environments by."""

from typing import Any

from diffrl import records

# Wrappers that change neither what is observed nor what is rewarded; the time limit is read from the spec itself.
HARMLESS_WRAPPERS = frozenset({"OrderEnforcing", "PassiveEnvChecker", "RecordEpisodeStatistics", "TimeLimit"})
# Wrappers that only show or keep pictures.
_SHOWING = frozenset({"HumanRendering", "RenderCollection"})


def read(text: str | None) -> dict[str, Any]:
    """The fields of `EnvSpec.to_json()`; {} where there is no text, or it is something else."""
    try:
        spec = records.foreign(text or "", "EnvSpec")
    except records.RecordError:
        return {}
    return spec if isinstance(spec, dict) and _well_formed(spec) else {}


def without_display(text: str) -> str:
    """The same EnvSpec, for an environment that draws nothing: data recorded in a window are used where there is no display.

    A text that is no EnvSpec stays as it is.
    """
    spec = read(text)
    if not spec:
        return text
    kwargs = {name: value for name, value in (spec.get("kwargs") or {}).items() if name != "render_mode"}
    kept = [wrapper for wrapper in wrappers(spec) if wrapper["name"] not in _SHOWING]
    return records.foreign_text({**spec, "kwargs": kwargs, "additional_wrappers": kept})


def wrappers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The spec's own wrappers, innermost first."""
    return list(spec.get("additional_wrappers") or ())


def _well_formed(spec: dict[str, Any]) -> bool:
    """Whether the parts that are read here are of the types gymnasium writes; it leaves none of them out, tests do."""
    steps, around = spec.get("max_episode_steps"), spec.get("additional_wrappers")
    return (
        isinstance(spec.get("kwargs"), dict | None)
        and isinstance(steps, int | None)
        and isinstance(around, list | None)
        and all(isinstance(one, dict) and isinstance(one.get("name"), str) for one in around or ())
    )
