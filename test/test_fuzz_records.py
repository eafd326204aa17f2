"""Whatever comes as a record: what is taken fits its schema, all else is refused by RecordError."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_records import SCHEMAS, values_of

from residual_smolvla_ros.learning.fleet import outcome_from_json
from residual_smolvla_ros.learning.schedule import EpisodePlan
from residual_smolvla_ros.learning.session import read_progress
from residual_smolvla_ros.records import (
    EPISODE_EVENT,
    STEP,
    SUCCESS_ESTIMATE,
    RecordError,
    pack,
    unpack,
)

# The same examples in every run, and no clock.
fuzz = settings(derandomize=True, deadline=None, database=None, max_examples=120)
BLOBS = {
    schema.kind: pack(schema, values_of(schema)[0], **values_of(schema)[1]) for schema in SCHEMAS
}


def take(schema, blob: bytes) -> bool:
    """Unpack, and tell whether it was taken; what is must fit its schema."""
    try:
        record = unpack(schema, blob)
    except RecordError:
        return False
    assert record.metadata.keys() == schema.metadata.keys()
    for value in record.metadata.values():
        assert type(value) in (int, bool, str, tuple, dict)
        numbers = value.values() if isinstance(value, dict) else [value]
        assert all(abs(number) < 2**63 for number in numbers if isinstance(number, int))
    assert record.tensors.keys() >= schema.tensors.keys()
    assert schema.open_tensors or record.tensors.keys() <= schema.tensors.keys()
    for name, value in record.tensors.items():
        assert value.dtype == np.float32
        assert np.isfinite(value).all()
        shape = schema.tensors.get(name, (None,) * value.ndim)
        assert [n or m for n, m in zip(shape, value.shape, strict=True)] == list(value.shape)
    return True


def split(blob: bytes) -> tuple[dict, bytes]:
    length = int.from_bytes(blob[:8], "little")
    return json.loads(blob[8 : 8 + length]), blob[8 + length :]


def join(header: bytes, data: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + data


schemas = st.sampled_from(SCHEMAS)
changes = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6)


@fuzz
@given(schemas, schemas, changes, st.floats(0, 1), st.binary(max_size=8))
def test_bytes_of_a_record_changed_cut_and_added(schema, other, changed, kept, added):
    blob = bytearray(BLOBS[other.kind])
    for where, value in changed:
        blob[int(where * len(blob))] = value
    cut = len(blob) if kept > 0.5 else int(2 * kept * len(blob))
    take(schema, bytes(blob[:cut]) + added)


texts = st.sampled_from(
    ["", "1_0", " 1", "+1", "-0", "1" * 5000, str(10**400), str(2**63), "\uff11\uff12", "\u00b2",
     "NaN", "a=1,a=2", "=1", "a=", "a=1=2", ",", "a," * 40_000, "\0", "\ud800", "true", "0x1"]
) | st.text(max_size=20)  # fmt: skip
sizes = st.sampled_from([-1, 0, 1, 2**31, 2**62, 2**64, 10**400, None, "3", 1.0, [], True])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@fuzz
@given(schemas, st.data())
def test_headers_of_a_record_altered_in_place(schema, data):
    header, tensors = split(BLOBS[schema.kind])
    names = [name for name in header if name != "__metadata__"]
    for _ in range(data.draw(st.integers(1, 3))):
        what = data.draw(st.sampled_from(["text", "any", "shape", "offsets", "dtype", "drop"]))
        entry = header[data.draw(st.sampled_from(names))] if names else {}
        if what == "text":
            header["__metadata__"][data.draw(st.sampled_from(list(schema.metadata)))] = data.draw(
                texts
            )
        elif what == "any":
            header["__metadata__"][data.draw(st.sampled_from([*schema.metadata, "kind"]))] = (
                data.draw(json_values)
            )
        elif what == "shape":
            entry["shape"] = data.draw(st.lists(sizes, max_size=4))
        elif what == "offsets":
            entry["data_offsets"] = data.draw(st.lists(sizes, max_size=3))
        elif what == "dtype":
            entry["dtype"] = data.draw(st.sampled_from(["F64", "BF16", "I8", "F8_E4M3", "f32", 3]))
        elif names:
            del entry[data.draw(st.sampled_from(sorted(entry) or ["none"]))]
            names = [name for name in names if header[name] is not entry]
    take(schema, join(json.dumps(header).encode("utf-8", "surrogatepass"), tensors))


NESTED = b"[" * 90_000 + b"]" * 5_000
TWICE = b'{"__metadata__":{"kind":"success_estimate","stamp":"1","stamp":"x","success":"0"}}'


@pytest.mark.parametrize(
    "header",
    [
        NESTED,
        b'{"__metadata__":' + NESTED + b"}",
        b'{"a":' * 15_000,
        TWICE,
        TWICE.replace(b'"success":"0"}}', b'"success":"0"},"__metadata__":{"kind":"step"}}'),
        b'{"__metadata__":{"kind":"success_estimate","stamp":' + b"9" * 90_000 + b"}}",
    ],
)
def test_headers_that_are_deep_double_or_long_are_refused(header):
    for data in (b"", b"\0" * 4):
        with pytest.raises(RecordError):
            unpack(SUCCESS_ESTIMATE, join(header, data))


@pytest.mark.parametrize(
    "text",
    ["\uff11\uff12", "1_000", " 1", "+1", "1" * 20, str(10**400), str(2**63), "-" + str(2**63)],
)
def test_numbers_that_no_stamp_can_hold_are_refused(text):
    """int() takes them all, and the first division by 1e9 was an OverflowError in a callback."""
    values = {"stamp": 1, "success": False} | {"stamp": text}
    with pytest.raises(RecordError, match="'stamp': expected a whole number of 64 bits"):
        unpack(SUCCESS_ESTIMATE, pack(SUCCESS_ESTIMATE, {"probability": 0.5}, **values))


def test_a_name_that_stands_twice_is_refused():
    tensors, values = values_of(STEP)
    blob = pack(STEP, tensors, **values | {"plan": ("a=1", "a=2")})
    with pytest.raises(RecordError, match="'plan': expected name=number, each name once"):
        unpack(STEP, blob)


# -- JSON within the metadata ----------------------------------------------------------------

PLAN = json.loads(EpisodePlan(1, "train", 0, 7, 100).to_json())
PROGRESS = {"episodes_per_update": 2, "warmup_updates": 1, "episodes": 0, "env_steps": 0,
            "rollbacks": 0, "weights_lag": 0}  # fmt: skip
OUTCOME = dataclasses.asdict(EpisodePlan(**PLAN).outcome(steps=3, success=True))
altered = st.tuples(st.sampled_from([*PLAN, *PROGRESS, *OUTCOME, "more"]), json_values | sizes)


@fuzz
@given(st.lists(altered, max_size=2))
def test_a_plan_a_progress_or_an_outcome_is_whole_or_a_record_error(pairs):
    """A plan of the wrong types was taken, and the simulator ended when it came to its seed."""
    for read, values in (
        (EpisodePlan.from_json, PLAN),
        (read_progress, PROGRESS),
        (outcome_from_json, OUTCOME),
    ):
        text = json.dumps(values | dict(pairs))
        try:
            found = read(text)
        except RecordError:
            continue
        found = found if isinstance(found, dict) else vars(found)
        assert found.keys() == values.keys()
        assert [type(value) for value in found.values()] == [type(v) for v in values.values()]


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "[[1]]", "3", '"plan"', "{}", "NaN", NESTED.decode(), '{"episode":' * 20_000]
    + [json.dumps(PLAN | change) for change in (
        {"seed": -1}, {"seed": True}, {"seed": 10**30}, {"seed": 1.0}, {"seed": None},
        {"max_steps": 0}, {"spectator": 1}, {"phase": None}, {"more": 1})],
)  # fmt: skip
def test_json_that_is_no_plan_is_refused(text):
    for read in (EpisodePlan.from_json, read_progress):
        with pytest.raises(RecordError):
            read(text)


def test_an_event_with_such_a_plan_is_a_record_all_the_same():
    """Which of its receivers reads the plan is theirs to say: they refuse it then."""
    _, values = values_of(EPISODE_EVENT)
    assert unpack(EPISODE_EVENT, pack(EPISODE_EVENT, **values | {"plan": "[]"}))
