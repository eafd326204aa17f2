"""What a parameter means and may be, told once: to the check, to ROS 2 and to the reference."""

import dataclasses
from dataclasses import dataclass

from residual_smolvla_ros.errors import ConfigError


@dataclass(frozen=True)
class About:
    """What a parameter means, what its numbers may be, and when a change of it counts.

    Numbers are `least` or more, `above` it, `most` or less; of a list, each. `live` tells when a
    change takes effect in a node that runs, "" where it takes none. A `hidden` parameter cannot be
    read by others.
    """

    description: str
    least: float | None = None
    most: float | None = None
    above: float | None = None
    choices: tuple[str, ...] = ()
    live: str = ""
    hidden: bool = False

    @property
    def expected(self) -> str:
        """What values are taken, in words; "" for any."""
        if self.choices:
            words = [choice or "nothing" for choice in self.choices]
            return " or ".join([", ".join(words[:-1]), words[-1]])
        if self.least is not None and self.most is not None:
            return f"{self.least:g} to {self.most:g}"
        bounds = [f"> {self.above:g}"] if self.above is not None else []
        bounds += [f"{self.least:g} or more"] if self.least is not None else []
        bounds += [f"at most {self.most:g}"] if self.most is not None else []
        return " and ".join(bounds)

    def check(self, name: str, value) -> None:
        """Raise ConfigError, one line, for a value that is not taken."""
        each = value if isinstance(value, list | tuple) else [value]
        if not all(self._takes(one) for one in each):
            raise ConfigError(f"{name}: expected {self.expected}, found {value!r}")

    def _takes(self, value) -> bool:
        if self.choices:
            return value in self.choices
        # In this way round NaN is refused.
        return (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
        )


TORCH_THREADS = About("threads of torch's operators", 1)


def about(told: str | About) -> About:
    """Return what is told of a parameter, which may be its description alone."""
    return About(told) if isinstance(told, str) else told


def setting(default, description: str, **limits):
    """Return a dataclass's field that is a parameter; `limits` are those of About."""
    return dataclasses.field(default=default, metadata={"about": About(description, **limits)})


def settings_of(kind) -> dict[str, About]:
    """Return what is told of each field of a dataclass that is a `setting`."""
    fields = dataclasses.fields(kind)
    return {field.name: field.metadata["about"] for field in fields if "about" in field.metadata}


def check_settings(made) -> None:
    """Raise ConfigError where a setting of a dataclass has a value that is not taken."""
    for name, told in settings_of(made).items():
        told.check(name, getattr(made, name))
