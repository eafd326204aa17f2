"""The reward's terms as parameters: their weights and settings are live."""

import dataclasses
import inspect
import json
from collections.abc import Callable

from rclpy.parameter import Parameter

from residual_smolvla_ros.nodes.parts.parameters import ParameterNode
from residual_smolvla_ros.parameters import About
from residual_smolvla_ros.rewards.composition import Reward, check_same_inputs, with_values
from residual_smolvla_ros.rewards.judge import default_terms

EPISODE = "with the next episode"


class RewardTerms:
    """Terms as a node's parameters `terms.<name>.<setting>`, and the reward made of them.

    `make` returns the reward of terms, nested by name; it raises ConfigError where they do not
    fit.
    """

    def __init__(self, node: ParameterNode, environment: bool, make: Callable[[dict], Reward]):
        self._make = make
        self._terms = node.nested("terms") or default_terms(environment)
        self.reward = make(self._terms)
        self._changed: dict[str, object] = {}
        for name, term in self.reward.terms.items():
            kind = self._terms[name].get("type", name)
            about = inspect.getdoc(term).partition("\n")[0].partition(":")[0].rstrip(".")
            told = About(f"weight of the term {kind}: {about}", live=EPISODE)
            node.parameter(f"terms.{name}.weight", self.reward.weights[name], told, any_number=True)
            for field in dataclasses.fields(term):
                value = getattr(term, field.name)
                value = list(value) if isinstance(value, tuple) else value
                if _has_type(value):
                    told = About(f"setting of the term {kind}", live=EPISODE)
                    node.parameter(f"terms.{name}.{field.name}", value, told, any_number=True)
        node.group("terms", About("reward terms: [rewards.md](rewards.md)", live=EPISODE))

    def change(self, values: dict[str, object]) -> tuple[Reward, str]:
        """Return the reward with other values, and all values that were changed so far, as JSON.

        Raises ConfigError, with all as it was, for one that does not fit.
        """
        changed = self._changed | {name: _plain(value) for name, value in values.items()}
        reward = self._make(with_values(self._terms, changed))
        check_same_inputs(self.reward, reward)
        self._changed = changed
        return reward, json.dumps(changed, sort_keys=True)


def _plain(value):
    """Return a parameter's value as JSON has it."""
    return value if isinstance(value, bool | int | float | str) else list(value)


def _has_type(value) -> bool:
    """Tell whether ROS 2 has parameters of a value's type, as not of an empty list."""
    try:
        kind = Parameter.Type.from_parameter_value(value)
    except TypeError:
        return False
    return kind is not Parameter.Type.NOT_SET and value != []
