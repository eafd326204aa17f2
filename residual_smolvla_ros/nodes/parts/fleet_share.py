"""An arm's place in a fleet: asks the node `fleet` for episodes, and tells what came of them."""

import json
from collections.abc import Callable
from dataclasses import asdict

from residual_smolvla_ros.learning.fleet import Share
from residual_smolvla_ros.learning.schedule import EpisodePlan, Outcome
from residual_smolvla_ros.nodes.common import LATCHED_QOS, PipelineNode, to_message
from residual_smolvla_ros.records import EPISODE_PLAN, EPISODE_REQUEST, Record, pack


def join_fleet(node: PipelineNode, on_plan: Callable[[], None]) -> Share:
    """Return what the fleet lets a node's arm play; `on_plan` is called when there is more."""
    # Latched, the newest only: an arm asks again once it has been answered.
    requests = node.record_publisher("episode/request", LATCHED_QOS)

    def ask(number: int, outcome: Outcome | None) -> None:
        text = json.dumps(asdict(outcome)) if outcome else ""
        requests.publish(to_message(pack(EPISODE_REQUEST, episode=number, outcome=text)))

    share = Share(ask)

    def take(record: Record) -> None:
        text = record.metadata["plan"]
        share.offer(EpisodePlan.from_json(text) if text else None)
        on_plan()

    node.record_subscription(EPISODE_PLAN, "episode/plan", take, LATCHED_QOS)
    return share
