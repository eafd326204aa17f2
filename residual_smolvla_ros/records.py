"""Records: the messages between policy, reward, learner and episode, as safetensors blobs.

A record is a set of tensors plus string metadata. Safetensors holds data only, so a message or a
checkpoint can carry no code. `unpack` refuses what does not match the kind's `Schema`.
"""

import json
import re
from dataclasses import dataclass, field

import numpy as np
from safetensors.numpy import load, save

MAX_HEADER_BYTES = 100_000
_WHOLE = re.compile("-?[0-9]{1,19}")
# What a person says of an episode; an empty label is none yet, which is not failure.
SUCCESS, FAILURE, DISCARD = "success", "failure", "discard"
LABELS = (SUCCESS, FAILURE, DISCARD)


class RecordError(ValueError):
    """A blob is not the record that was expected."""


@dataclass(frozen=True)
class Schema:
    """What a kind of record holds.

    `tensors` maps a name to a shape, where None is any length; all are float32.
    With `open_tensors` further tensors of any shape are allowed (network weights).
    `metadata` maps a key to the function that parses its string; `optional` is of those that a
    record need not have.
    """

    kind: str
    tensors: dict[str, tuple[int | None, ...]] = field(default_factory=dict)
    metadata: dict[str, type] = field(default_factory=dict)
    open_tensors: bool = False
    optional: dict[str, type] = field(default_factory=dict)


def _whole(text: str) -> int:
    # int() takes more: other scripts' digits, and numbers that no stamp and no float can hold.
    if not _WHOLE.fullmatch(text) or abs(number := int(text)) >= 2**63:
        raise ValueError(f"expected a whole number of 64 bits, found {text[:40]!r}")
    return number


def _flag(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError(f"expected 0 or 1, found {text[:40]!r}")
    return text == "1"


def _label(text: str) -> str:
    if text not in ("", *LABELS):
        raise ValueError(f"expected one of {', '.join(LABELS)} or nothing, found {text[:40]!r}")
    return text


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(",")) if text else ()


def _numbers(text: str) -> dict[str, int]:
    numbers = {}
    for part in _names(text):
        name, separator, number = part.partition("=")
        if not separator or name in numbers:
            raise ValueError(f"expected name=number, each name once, found {part[:40]!r}")
        numbers[name] = _whole(number)
    return numbers


# policy/step: one control step. `decision` is 1 where a residual was sampled (it is held for some
# steps); `final` is 1 for the state after the last step of a truncated episode. `intervention` is 1
# where a person's command was sent instead of the policy's: `command` is that person's then.
# `plan_age_ms` and `token_age_ms` are the ages of what the plan and the vision tokens were made
# from, -1 where there are none. `plan_images` are the stamps in ns, by camera, of the images of a
# plan that this step is the first to play, and `plan` is what else it was made for: the stamp and
# the tick of the state, in how many steps it was to take over, and how many actions were left
# then; `token_images` are those whose tokens it is the first to use. Empty where there is no such.
STEP = Schema(
    "step",
    tensors={
        "features": (None,),
        "base": (None,),
        "residual": (None,),
        "command": (None,),
        "log_prob": (),
        "value": (),
    },
    metadata={
        "stamp": _whole,
        "episode": _whole,
        "tick": _whole,
        "weights_version": _whole,
        "decision": _flag,
        "final": _flag,
        "intervention": _flag,
        "plan_age_ms": _whole,
        "plan_images": _numbers,
        "plan": _numbers,
        "token_age_ms": _whole,
        "token_images": _numbers,
    },
)

# reward: of the step `stamp`, whose following state is `next_stamp`. `terms` are the weighted
# shares of the terms whose `names` stand in the metadata; `missing` names terms that lacked their
# input, without which the learner does not take the step. `label` is a person's: the record then
# replaces the one that the episode's last step got before. `settings` are those parameters of the
# terms that were changed while the node ran, as JSON.
REWARD = Schema(
    "reward",
    tensors={"reward": (), "terms": (None,)},
    metadata={
        "stamp": _whole,
        "next_stamp": _whole,
        "success": _flag,
        "terminated": _flag,
        "label": _label,
        "names": _names,
        "missing": _names,
    },
    optional={"settings": str},
)

# success/estimate: what a reward model says of the images of `stamp`; `success` once it has held.
SUCCESS_ESTIMATE = Schema(
    "success_estimate",
    tensors={"probability": ()},
    metadata={"stamp": _whole, "success": _flag},
)

# environment/state: what only a simulator knows of the state `stamp`; `previous_stamp` is the
# state whose command led here, 0 after a reset.
ENVIRONMENT_STATE = Schema(
    "environment_state",
    tensors={"privileged": (None,), "target": (3,), "reward": ()},
    metadata={"stamp": _whole, "previous_stamp": _whole, "success": _flag},
)

# episode/event: `event` is prepare, end, label or validated; `plan` is the EpisodePlan as JSON. An
# `end` without a label is followed by the event `label` once it is known. After the last episode
# of a validation, `validated` tells by `success` whether its weights may stay: if not, the learner
# goes back to those before. `played` is the node fleet's: one of its arms has ended the episode.
EPISODE_EVENT = Schema(
    "episode_event",
    metadata={
        "event": str,
        "episode": _whole,
        "plan": str,
        "reason": str,
        "success": _flag,
        "label": _label,
        "last_stamp": _whole,
        "steps": _whole,
    },
)

# episode/request: an arm of a fleet is free for an episode. `outcome` is the Outcome of the one
# before as JSON, "" at first; `episode` is the number of the last.
EPISODE_REQUEST = Schema("episode_request", metadata={"episode": _whole, "outcome": str})

# episode/plan: the EpisodePlan, as JSON, that an arm of a fleet is to play; "" ends its session.
EPISODE_PLAN = Schema("episode_plan", metadata={"plan": str})

# learner/weights: the residual network. `config` is a ResidualConfig, `progress` what
# Learner.progress returns, both as JSON. `anytime` ones may be swapped in within an episode.
WEIGHTS = Schema(
    "weights",
    metadata={"version": _whole, "config": str, "progress": str, "anytime": _flag},
    open_tensors=True,
)


@dataclass(frozen=True)
class Record:
    """Tensors and parsed metadata of one record."""

    tensors: dict[str, np.ndarray]
    metadata: dict

    def __getitem__(self, name: str) -> np.ndarray:
        return self.tensors[name]


def pack(schema: Schema, tensors: dict[str, np.ndarray] | None = None, **metadata) -> bytes:
    """Return the record as bytes.

    Booleans become "0" and "1", tuples of names "a,b", numbers by name "a=1,b=2".
    """
    text = {"kind": schema.kind}
    for key in schema.metadata:
        value = metadata[key]
        if isinstance(value, dict):
            value = tuple(f"{name}={number}" for name, number in value.items())
        if isinstance(value, tuple):
            value = ",".join(value)
        text[key] = str(int(value)) if isinstance(value, bool | np.bool_) else str(value)
    text |= {key: str(metadata[key]) for key in schema.optional if metadata.get(key)}
    arrays = {
        name: np.ascontiguousarray(value, dtype=np.float32) if np.ndim(value) else
        np.array(value, dtype=np.float32)
        for name, value in (tensors or {}).items()
    }  # fmt: skip
    return save(arrays, metadata=text)


def unpack(schema: Schema, blob: bytes) -> Record:
    """Return the record in `blob`.

    Raises RecordError, naming what was expected and found, on another kind, on missing or
    further tensors, on another shape or dtype, and on values that are not finite.
    """
    blob = bytes(blob)
    text = _read_metadata(blob)
    if text.get("kind") != schema.kind:
        raise RecordError(f"expected a record of kind {schema.kind}, found {text.get('kind')!r}")
    metadata = {}
    given = {key: parse for key, parse in schema.optional.items() if key in text}
    for key, parse in (schema.metadata | given).items():
        if key not in text:
            raise RecordError(f"{schema.kind} record: expected metadata {key!r}, found none")
        try:
            metadata[key] = parse(text[key])
        except ValueError as error:
            raise RecordError(f"{schema.kind} record: metadata {key!r}: {error}") from None
    try:
        tensors = load(blob)
    except Exception as error:
        raise RecordError(f"{schema.kind} record: not safetensors ({error})") from None
    _check_tensors(schema, tensors)
    return Record(tensors, metadata)


def _read_metadata(blob: bytes) -> dict[str, str]:
    # safetensors reads metadata from files only, not from memory: the header is length + JSON.
    length = int.from_bytes(blob[:8], "little")
    if len(blob) < 8 or not 0 < length <= min(len(blob) - 8, MAX_HEADER_BYTES):
        raise RecordError(f"expected a safetensors blob, found {len(blob)} bytes without a header")
    try:
        header = json.loads(blob[8 : 8 + length])
        metadata = header["__metadata__"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise RecordError("expected a safetensors header with metadata, found none") from None
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise RecordError("expected a safetensors header with metadata, found none")
    return metadata


def _check_tensors(schema: Schema, tensors: dict[str, np.ndarray]) -> None:
    missing = schema.tensors.keys() - tensors.keys()
    further = set() if schema.open_tensors else tensors.keys() - schema.tensors.keys()
    if missing or further:
        raise RecordError(
            f"{schema.kind} record: expected tensors {sorted(schema.tensors)}, "
            f"found {sorted(tensors)}"
        )
    for name, value in tensors.items():
        shape = schema.tensors.get(name)
        if value.dtype != np.float32:
            raise RecordError(
                f"{schema.kind} record: {name}: expected float32, found {value.dtype}"
            )
        if shape is not None and (
            len(shape) != value.ndim
            or any(n is not None and n != m for n, m in zip(shape, value.shape, strict=True))
        ):
            raise RecordError(
                f"{schema.kind} record: {name}: expected shape {shape}, found {value.shape}"
            )
        if not np.isfinite(value).all():
            raise RecordError(f"{schema.kind} record: {name}: expected finite values")
