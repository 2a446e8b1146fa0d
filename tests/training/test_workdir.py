"""A workdir belongs to one experiment; what younger releases tell of its data does not make it another."""

import json

import pytest
from workdirs import card, describe, tiny_config

from diffrl.training.workdir import WorkdirError, claimed
from diffrl.types import Spec


def test_a_workdir_of_before_data_were_compared_goes_on(tmp_path):
    config, of_now = tiny_config(), card(clipped_actions=3)
    describe(tmp_path, config, of_now)
    path = tmp_path / "dataset.json"
    there = json.loads(path.read_text())
    younger = ("comparable_return", "comparable_episodes", "clipped_actions")
    path.write_text(json.dumps({name: value for name, value in there.items() if name not in younger}))
    with claimed(tmp_path, config, Spec.plain(6, 2), of_now):
        pass
    with (
        pytest.raises(WorkdirError, match="sha256: '' there, 'other' now"),
        claimed(tmp_path, config, Spec.plain(6, 2), card(sha256="other")),
    ):
        pass
