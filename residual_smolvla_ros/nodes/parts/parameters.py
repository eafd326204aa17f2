"""Parameters of a node: described, bounded, read-only unless they are live."""

import sys

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import InvalidParameterTypeException
from rclpy.node import Node
from rclpy.parameter import Parameter

from residual_smolvla_ros.errors import ConfigError
from residual_smolvla_ros.parameters import About, about

# Stand for no bound in a range, which has two ends.
MOST_FLOAT, MOST_INTEGER = sys.float_info.max, 2**63 - 1


class ParameterNode(Node):
    """A node that tells of each parameter what it is, and takes changes of live ones only."""

    def __init__(self, name: str, **settings):
        self._abouts: dict[str, About] = {}
        super().__init__(name, **settings)
        self.add_on_set_parameters_callback(self._on_set)

    def parameter(self, name: str, default, told: str | About, any_number: bool = False):
        """Declare a parameter and return its value; raise ConfigError if it is not taken.

        `told` is the description, or that and more. With a `Parameter.Type` as default, what nobody
        sets is None. With `any_number` a whole number may stand for another, and a list of them.
        """
        if name in self._abouts:  # a managed node is configured again
            return self.get_parameter_or(name).value
        told = about(told)
        if self.has_parameter(name):  # declared from an override, without a description
            self.undeclare_parameter(name)
        try:
            plain = ParameterDescriptor(dynamic_typing=any_number)
            value = self.declare_parameter(name, default, plain).value
        except InvalidParameterTypeException as error:
            raise ConfigError(f"parameter {name}: expected one like {default!r}: {error}") from None
        if value is not None:
            # Before ROS 2 does, which names no bound that is excluded and no choice.
            told.check(name, value)
        if told.hidden:
            self.undeclare_parameter(name)
            return value
        descriptor = _describe(told, self.describe_parameter(name).type, any_number)
        self.undeclare_parameter(name)
        self.declare_parameter(name, default, descriptor)
        self._abouts[name] = told
        return value

    def group(self, prefix: str, told: str | About) -> dict:
        """Describe all parameters below a prefix that are not yet, and return all, nested.

        For a node that declares its overrides.
        """
        for name, parameter in self.get_parameters_by_prefix(prefix).items():
            if f"{prefix}.{name}" not in self._abouts:
                self.parameter(f"{prefix}.{name}", parameter.value, told)
        return self.nested(prefix)

    def nested(self, prefix: str) -> dict:
        """Return all parameters below a prefix, nested."""
        values: dict = {}
        for name, parameter in self.get_parameters_by_prefix(prefix).items():
            *folders, last = name.split(".")
            place = values
            for folder in folders:
                place = place.setdefault(folder, {})
            place[last] = parameter.value
        return values

    def change(self, values: dict) -> None:
        """Take new values of live parameters; raise ValueError with the reason if they are not."""

    def set_parameters_atomically(self, parameter_list: list[Parameter]) -> SetParametersResult:
        """Refuse, with the reason, what cannot be changed or is not taken."""
        for parameter in parameter_list:
            try:
                self._check_change(parameter)
            except ConfigError as error:
                return SetParametersResult(successful=False, reason=str(error))
        return super().set_parameters_atomically(parameter_list)

    def _check_change(self, parameter: Parameter) -> None:
        if not self.has_parameter(parameter.name):
            raise ConfigError(
                f"{parameter.name}: expected a parameter of {self.get_name()}, found no such"
            )
        told = self._abouts.get(parameter.name)
        if told is None:  # of ROS 2 itself
            return
        if not told.live:
            raise ConfigError(
                f"{parameter.name}: expected no change while the node runs, found one: it is read "
                "at the start; change the parameter file, and start again"
            )
        if parameter.type_ is Parameter.Type.NOT_SET:
            raise ConfigError(f"{parameter.name}: expected a value, found none")
        if self.get_parameter(parameter.name).type_ is parameter.type_:
            told.check(parameter.name, parameter.value)

    def _on_set(self, parameters: list[Parameter]) -> SetParametersResult:
        live = [p for p in parameters if p.name in self._abouts and self._abouts[p.name].live]
        try:
            if live:
                self.change({p.name: p.value for p in live})
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)


def _describe(told: About, kind: int, any_number: bool) -> ParameterDescriptor:
    """Return what `ros2 param describe` shows of a parameter of a type."""
    made = ParameterDescriptor(
        type=kind,
        description=told.description,
        read_only=not told.live,
        dynamic_typing=any_number,
    )
    low = told.least if told.above is None else told.above
    words = [told.expected] if told.choices or told.above is not None else []
    if (low, told.most) != (None, None):
        if kind == Parameter.Type.INTEGER.value:
            ends = _ends(low, told.most, MOST_INTEGER)
            made.integer_range = [IntegerRange(from_value=ends[0], to_value=ends[1])]
        elif kind == Parameter.Type.DOUBLE.value:
            ends = _ends(low, told.most, MOST_FLOAT)
            made.floating_point_range = [FloatingPointRange(from_value=ends[0], to_value=ends[1])]
        else:
            words = [f"each {told.expected}"]
    if told.live:
        words.append(f"a change takes effect {told.live}")
    made.additional_constraints = "; ".join(words)
    return made


def _ends(low, high, most):
    kind = type(most)
    return kind(-most if low is None else low), kind(most if high is None else high)
