"""Nodes that run on another machine are not started here."""

import pytest

from residual_smolvla_ros import pipeline
from residual_smolvla_ros.arguments import FINETUNE, ArgumentError


def nodes(tmp_path, choice: str) -> list[str]:
    given = {"output": str(tmp_path / "run"), "nodes": choice}
    return [node.name for node in pipeline.build(FINETUNE, given).nodes]


def test_a_learner_elsewhere_is_one_word_on_each_machine(tmp_path):
    every = nodes(tmp_path, "")
    assert nodes(tmp_path, "learner") == ["learner"]
    assert nodes(tmp_path, "-learner") == [name for name in every if name != "learner"]
    assert nodes(tmp_path, "policy,reward") == ["policy", "reward"]


@pytest.mark.parametrize("choice", ["lerner", "policy,-learner", "-so101_sim,-lerner"])
def test_a_name_that_no_node_has_is_refused_with_those_that_there_are(choice, tmp_path):
    with pytest.raises(ArgumentError, match=rf"expected some of so101_sim, .* found {choice}$"):
        nodes(tmp_path, choice)


def test_a_pipeline_without_nodes_is_refused(tmp_path):
    without = ",".join(f"-{name}" for name in nodes(tmp_path, ""))
    with pytest.raises(ArgumentError, match="expected some of"):
        nodes(tmp_path, without)
