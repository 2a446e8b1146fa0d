"""Variants of acting: every combination is timed, and drawn as lines against the first name."""

from pathlib import Path

import pytest

from diffrl.benchmarks.acting_plot import draw
from diffrl.benchmarks.stages import ActionTime, variants
from diffrl.config import ConfigError


def test_variants_are_all_combinations() -> None:
    assert variants([]) == [{}]
    assert variants(["a=1,2 b=x", "c=3"]) == [{"a": "1", "b": "x"}, {"a": "2", "b": "x"}, {"c": "3"}]
    with pytest.raises(ConfigError, match="name=v1,v2"):
        variants(["a"])


def test_picture(tmp_path: Path) -> None:
    texts = ["width=1,2 guided=0,1", "depth=3"]
    rows = [ActionTime("swg", variant, batch, 1e-3) for variant in variants(texts) for batch in (1, 8)]
    assert draw(rows, texts, tmp_path / "a.png").stat().st_size > 5_000
