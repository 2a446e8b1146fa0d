"""gymnasium's EnvSpec as text, read without gymnasium: what the backends recognise environments by."""

import json
from typing import Any

# Wrappers that change neither what is observed nor what is rewarded; the time limit is read from the spec itself.
HARMLESS_WRAPPERS = frozenset({"OrderEnforcing", "PassiveEnvChecker", "RecordEpisodeStatistics", "TimeLimit"})


def read(text: str) -> dict[str, Any]:
    """The fields of `EnvSpec.to_json()`; {} where the text is something else."""
    try:
        spec = json.loads(text)
    except json.JSONDecodeError:
        return {}
    return spec if isinstance(spec, dict) else {}


def wrappers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The spec's own wrappers, innermost first."""
    return list(spec.get("additional_wrappers") or ())
