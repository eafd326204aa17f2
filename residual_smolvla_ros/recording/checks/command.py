"""The command `replay`: its arguments, and what runs the checks."""

from residual_smolvla_ros.arguments import (
    Argument,
    ArgumentError,
    choice,
    names,
    number,
    parse_values,
)

REPLAY = "replay"
CHECKS = ("policy", "reward", "learner")


def _rate(text: str) -> float:
    if number(text) < 0:
        raise ValueError("a number, 0 or more")
    return number(text)


def _remaps(text: str) -> dict[str, str]:
    remaps = {}
    for pair in names(text):
        old, _, new = pair.partition("=")
        if not old or not new:
            raise ValueError("old=new,...")
        remaps[old] = new
    return remaps


_CHECK, _TRUNCATED = choice("", *CHECKS), choice("refuse", "allow")
# Of a check, of playing, or of both ("").
_ARGUMENTS = (
    ("bag", "", "the bag: its folder or its .mcap or .db3 file", str, ""),
    ("check", "", "policy, reward or learner: compute anew and compare, without ROS", _CHECK, ""),
    ("truncated", "refuse", "cut off bags: refuse, or allow: up to their end", _TRUNCATED, ""),
    ("base_checkpoint", "", "folder of the base; default: the session's", str, "check"),
    ("checkpoint", "", "learner: checkpoint that a resumed session began with", str, "check"),
    ("config", "", "reward: parameter file with other terms; default: the session's", str, "check"),
    ("rate", "1.0", "1: real time; 0: as fast as subscribers take it", _rate, "play"),
    ("topics", "", "topics to play, a,b; default: all", names, "play"),
    ("remap", "", "other names for topics, old=new,...", _remaps, "play"),
    ("wait_for", "", "topics that need a subscriber first; default: any; none", names, "play"),
    ("answers", "", "topic whose message each joint_states waits for", str, "play"),
    ("joint_names", "", "joints of joint_states; default: the SO101's; any", names, "play"),
)  # fmt: skip
ARGUMENTS = tuple(
    Argument(name, default, text, parse, (REPLAY,)) for name, default, text, parse, _ in _ARGUMENTS
)


def parse(given: dict[str, str]) -> dict:
    """Return a value for each argument.

    Raises ArgumentError for one that is unknown, cannot be read, or belongs to another use.
    """
    values = parse_values(ARGUMENTS, given)
    if not values["bag"]:
        raise ArgumentError("bag: expected a bag, found none")
    other = "play" if values["check"] else "check"
    if strange := [name for name, *_, use in _ARGUMENTS if use == other and name in given]:
        found = f"check:={values['check']}" if values["check"] else "no check"
        raise ArgumentError(f"{', '.join(strange)}: expected none of them, found {found}")
    return values


def node_parameters(values: dict) -> dict:
    """Return the parameters of the node `replay`."""
    parameters = {name: values[name] for name in ("bag", "truncated", "rate", "answers")}
    lists = {name: list(values[name]) for name in ("topics", "wait_for", "joint_names")}
    lists["remap"] = [f"{old}={new}" for old, new in values["remap"].items()]
    # An empty list has no type in ROS 2: an empty word stands for none.
    return parameters | {name: words or [""] for name, words in lists.items()}


def run_check(values: dict) -> int:
    """Run a check and print what it found; return 0 where all agrees."""
    from residual_smolvla_ros.recording.bag_reader import open_bag

    with open_bag(values["bag"], values["truncated"]) as bag:
        if bag.truncated:
            print(f"the bag is cut off: {bag.truncated}")
        report = _CHECKS[values["check"]](bag, values)
    print(report)
    print(f"check {values['check']}: {'all agrees' if report.agrees else 'there are differences'}")
    return 0 if report.agrees else 1


# Only when they run: each imports for seconds.
def _policy(bag, values: dict):
    from residual_smolvla_ros.recording.checks.policy import check_policy

    return check_policy(bag, values["base_checkpoint"])


def _reward(bag, values: dict):
    from residual_smolvla_ros.recording.checks.reward import check_reward

    return check_reward(bag, values["config"])


def _learner(bag, values: dict):
    from residual_smolvla_ros.recording.checks.learner import check_learner

    return check_learner(bag, values["base_checkpoint"], values["checkpoint"])


_CHECKS = {"policy": _policy, "reward": _reward, "learner": _learner}
