"""Records: what goes in comes out, and nothing but RecordError comes out of bad bytes."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from residual_smolvla_ros import records
from residual_smolvla_ros.records import (
    STEP,
    SUCCESS_ESTIMATE,
    WEIGHTS,
    RecordError,
    Schema,
    pack,
    unpack,
)

SCHEMAS = [value for value in vars(records).values() if isinstance(value, Schema)]
# The same examples in every run, and no clock.
fuzz = settings(derandomize=True, deadline=None, database=None, max_examples=200)


def values_of(schema: Schema) -> tuple[dict, dict]:
    """Tensors and metadata that fit a schema."""
    shapes = {
        name: tuple(3 if n is None else n for n in shape) for name, shape in schema.tensors.items()
    }
    if schema.open_tensors:
        shapes |= {"actor.0.weight": (4, 2), "log_std": (4,)}
    rng = np.random.default_rng(0)
    tensors = {name: np.float32(rng.normal(size=shape)) for name, shape in shapes.items()}
    samples = {records._whole: 12345678901234567, str: '{"text": "ä"}'}
    samples |= {records._label: "success", records._names: ("success", "time")}
    samples |= {records._numbers: {"front": 1, "wrist": 12345678901234567}}
    return tensors, {key: samples.get(parse, True) for key, parse in schema.metadata.items()}


def estimate_blob(tensors=None, **metadata) -> bytes:
    """A success_estimate record of which anything may be replaced; None leaves it out."""
    text = {"kind": "success_estimate", "stamp": "1", "success": "0"}
    text = {k: v for k, v in (text | metadata).items() if v is not None}
    tensors = {"probability": np.float32(1.0)} if tensors is None else tensors
    return save({name: np.asarray(value) for name, value in tensors.items()}, metadata=text)


def with_header(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    length = len(header) if length is None else length
    return length.to_bytes(8, "little") + header + data


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.kind)
def test_every_kind_survives_the_round_trip(schema):
    tensors, metadata = values_of(schema)
    found = unpack(schema, pack(schema, tensors, **metadata))
    assert found.metadata == metadata
    assert found.tensors.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].shape == value.shape
        np.testing.assert_array_equal(found[name], value)


def test_other_numbers_are_sent_as_float32():
    # Transposed: the memory layout must not come through.
    matrix = np.arange(6, dtype=np.int64).reshape(2, 3).T
    found = unpack(
        WEIGHTS, pack(WEIGHTS, {"w": matrix}, version=1, config="", progress="", anytime=False)
    )
    assert found["w"].dtype == np.float32
    np.testing.assert_array_equal(found["w"], matrix)
    flag = pack(SUCCESS_ESTIMATE, {"probability": 1}, stamp=1, success=np.True_)
    assert unpack(SUCCESS_ESTIMATE, flag).metadata["success"] is True


def test_a_record_of_another_kind_is_refused():
    with pytest.raises(RecordError, match="of kind step, found 'success_estimate'"):
        unpack(STEP, estimate_blob())


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, r"expected tensors \['probability'\], found \[\]"),
        ({"probability": np.float32(1), "more": np.float32(1)}, r"found \['more', 'probability'\]"),
        ({"probability": np.float64(1)}, "expected float32, found float64"),
        ({"probability": np.int32(1)}, "expected float32, found int32"),
        ({"probability": np.ones(1, np.float32)}, r"expected shape \(\), found \(1,\)"),
        ({"probability": np.float32(np.nan)}, "probability: expected finite values"),
        ({"probability": np.float32(np.inf)}, "probability: expected finite values"),
    ],
)
def test_a_wrong_tensor_is_refused_by_its_name(tensors, message):
    with pytest.raises(RecordError, match=message):
        unpack(SUCCESS_ESTIMATE, estimate_blob(tensors))


def test_a_wrong_length_in_a_fixed_shape_is_refused():
    state = records.ENVIRONMENT_STATE
    tensors, metadata = values_of(state)
    tensors["target"] = np.zeros(2, np.float32)
    with pytest.raises(RecordError, match=r"target: expected shape \(3,\), found \(2,\)"):
        unpack(state, pack(state, tensors, **metadata))


def test_nan_in_network_weights_is_refused():
    blob = pack(
        WEIGHTS, {"w": np.array([1.0, np.nan])}, version=1, config="", progress="", anytime=False
    )
    with pytest.raises(RecordError, match="w: expected finite values"):
        unpack(WEIGHTS, blob)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"stamp": None}, "expected metadata 'stamp', found none"),
        ({"stamp": "soon"}, "metadata 'stamp'.*'soon'"),
        ({"stamp": "1.5"}, "metadata 'stamp'.*'1.5'"),
        ({"success": "yes"}, "metadata 'success': expected 0 or 1, found 'yes'"),
        ({"kind": None}, "expected a record of kind success_estimate, found None"),
    ],
)
def test_wrong_metadata_is_refused_by_its_key(metadata, message):
    with pytest.raises(RecordError, match=message):
        unpack(SUCCESS_ESTIMATE, estimate_blob(**metadata))


@pytest.mark.parametrize("value", ["null", "[]", "{}", "Infinity", "NaN", "1e999"])
def test_metadata_that_is_not_text_is_refused(value):
    """The header is JSON of anyone's making: int(None) and int(inf) raise other errors."""
    header = f'{{"__metadata__": {{"kind": "probability", "stamp": {value}}}}}'
    with pytest.raises(RecordError):
        unpack(SUCCESS_ESTIMATE, with_header(header.encode()))


@pytest.mark.parametrize("cut", [0, 1, 7, 8, 20, -5, -1])
def test_a_truncated_record_is_refused(cut):
    with pytest.raises(RecordError):
        unpack(SUCCESS_ESTIMATE, estimate_blob()[:cut])


@pytest.mark.parametrize(
    "blob",
    [
        estimate_blob() + b"\0",
        with_header(b"{}", length=0),
        with_header(b"{}", length=3),
        with_header(b"{}", length=2**63),
        with_header(b"[" * 90_000),
        with_header(b" " * 200_000),
        with_header(b'{"__metadata__": []}'),
        with_header(b'{"__metadata__": "kind"}'),
        with_header(b'["__metadata__"]'),
        with_header(b"3"),
        with_header(b"\xff\xfe\x00"),
        b"\x80\x04\x95K\x00\x00\x00\x00\x00\x00\x00\x8c\x02os",
    ],
)
def test_a_header_that_lies_is_refused(blob):
    with pytest.raises(RecordError):
        unpack(SUCCESS_ESTIMATE, blob)


def test_a_tensor_that_claims_more_data_than_there_is_is_refused():
    tensor = {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}
    text = {"kind": "success_estimate", "stamp": "1", "success": "0"}
    header = json.dumps({"__metadata__": text, "probability": tensor}).encode()
    with pytest.raises(RecordError, match="not safetensors"):
        unpack(SUCCESS_ESTIMATE, with_header(header, bytes(4)))


@fuzz
@given(st.binary(max_size=200))
def test_random_bytes_raise_record_error_only(blob):
    with pytest.raises(RecordError):
        unpack(SUCCESS_ESTIMATE, blob)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@fuzz
@given(
    metadata=json_values
    | st.fixed_dictionaries({"kind": st.just("success_estimate"), "stamp": json_values}),
    tensor=json_values,
    data=st.binary(max_size=8),
)
def test_random_headers_raise_record_error_only(metadata, tensor, data):
    header = json.dumps({"__metadata__": metadata, "probability": tensor}).encode()
    with pytest.raises(RecordError):
        unpack(SUCCESS_ESTIMATE, with_header(header, data))


@fuzz
@given(position=st.integers(0, len(estimate_blob()) - 1), bits=st.integers(1, 255))
def test_a_damaged_byte_gives_a_valid_record_or_record_error(position, bits):
    blob = bytearray(estimate_blob())
    blob[position] ^= bits
    try:
        found = unpack(SUCCESS_ESTIMATE, bytes(blob))
    except RecordError:
        return
    assert found["probability"].shape == ()
    assert np.isfinite(found["probability"])
    assert found.metadata.keys() == SUCCESS_ESTIMATE.metadata.keys()
