"""What `robots:=` starts: the nodes of one arm in each namespace, one learner and one fleet."""

import json

import pytest

from residual_smolvla_ros import pipeline, starter
from residual_smolvla_ros.arguments import FINETUNE, ArgumentError

OF_ARM = ("so101_sim", "policy", "reward", "episode")


def nodes(tmp_path, **given) -> dict:
    given = {"robots": "arm1,arm2", "output": str(tmp_path / "run")} | given
    return {node.full_name: node for node in pipeline.build(FINETUNE, given).nodes}


def test_each_arm_has_nodes_of_its_own_and_all_have_one_learner(tmp_path):
    found = nodes(tmp_path)
    of_arms = [f"{arm}/{name}" for arm in ("arm1", "arm2") for name in OF_ARM]
    assert list(found) == ["learner", "fleet", *of_arms]
    assert found["learner"].parameters["robots"] == ["arm1", "arm2"]
    words = starter.command(found["arm2/policy"], tmp_path / "file")
    assert "__ns:=/arm2" in words


def test_no_two_simulated_arms_drive_one_clock(tmp_path):
    words = starter.command(nodes(tmp_path)["arm1/so101_sim"], tmp_path / "file")
    assert "/clock:=clock" in words


def test_the_schedule_of_the_config_is_the_fleets(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({"/**/episode": {"ros__parameters": {"max_steps": 7}}}))
    found = nodes(tmp_path, config=str(config), total_steps="50")
    fleet, episode = found["fleet"].parameters, found["arm1/episode"].parameters
    assert (fleet["max_steps"], fleet["total_steps"]) == (7, 50)
    assert episode["fleet"]
    assert "total_steps" not in episode


def test_arms_write_into_folders_of_their_own(tmp_path):
    found = nodes(tmp_path, record="true", console="true")
    for name, of in (("episode", "output"), ("console", "output"), ("recorder", "bag")):
        folders = [found[f"{arm}/{name}"].parameters[of] for arm in ("arm1", "arm2")]
        assert [folder.rsplit("/", 1)[1] for folder in folders] == ["arm1", "arm2"]
    ports = [found[f"{arm}/console"].parameters["port"] for arm in ("arm1", "arm2")]
    assert ports[0] != ports[1]


def test_a_machine_starts_an_arm_or_the_learner(tmp_path):
    assert list(nodes(tmp_path, nodes="learner,fleet")) == ["learner", "fleet"]
    assert list(nodes(tmp_path, nodes="arm1")) == [f"arm1/{name}" for name in OF_ARM]
    assert list(nodes(tmp_path, nodes="arm1/policy,arm2/policy")) == ["arm1/policy", "arm2/policy"]
    assert "arm2/policy" not in nodes(tmp_path, nodes="-arm2")


def test_a_progress_bar_follows_all_arms_or_the_one_that_is_here(tmp_path):
    given = {"robots": "arm1,arm2", "output": str(tmp_path / "run")}
    for choice, folder in (("", ""), ("learner,fleet", ""), ("arm2", "arm2"), ("-arm1", "")):
        followed = pipeline.build(FINETUNE, given | {"nodes": choice}).followed
        assert followed == tmp_path / "run" / folder


@pytest.mark.parametrize("robots", ["arm1,arm1", "1arm", "arm1,", "arm 1", "policy"])
def test_what_cannot_be_a_namespace_of_its_own_is_refused(robots, tmp_path):
    with pytest.raises(ArgumentError, match="robots: expected"):
        nodes(tmp_path, robots=robots)
