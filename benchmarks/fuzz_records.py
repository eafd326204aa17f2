"""Print how many damaged and made-up records were parsed, and what came of them.

    python benchmarks/fuzz_records.py [--inputs 1000000] [--seed 0] [--coverage]

Inputs are records of every kind, changed by chance: bytes, lengths, parts of another kind, names,
shapes, offsets and values in the header, and the JSON within the metadata. Each is given to
`unpack`, and what it takes to the readers of that JSON. Right is a record that fits its schema, or
RecordError; any other exception is a crash, whose input is printed. With --coverage libFuzzer
(`pip install atheris`) chooses the inputs instead, by the lines of the parser that they reach.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "test"))
from test_fuzz_records import BLOBS, PLAN, PROGRESS, SCHEMAS, join, split, take

from residual_smolvla_ros import records
from residual_smolvla_ros.learning.schedule import EpisodePlan
from residual_smolvla_ros.learning.session import read_progress

WARM_UP = 20_000  # inputs before memory is first looked at
LONGEST = 4096
NUMBERS = (-1, 0, 1, 3, 2**31, 2**53, 2**62, 2**64, 10**400, None, True, 1.5, float("nan"),
           float("inf"), "3", "", [], [[]], {}, {"a": 1})  # fmt: skip
TEXTS = ("", "1_0", " 1", "+1", "-1", "1" * 5000, str(10**400), str(2**63), "\uff11\uff12", "NaN",
         "a=1,a=2", "=", "a=", "a=1=2", ",", "a," * 3000, "\0", "\ud800", "true", "step", "[]",
         "[" * 3000, "{" * 3000, '{"seed":' * 500)  # fmt: skip


def main() -> None:
    """Parse all inputs and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--coverage", action="store_true", help="let atheris choose the inputs")
    given = parser.parse_args()
    tried = Tried(given.inputs)
    if given.coverage:
        by_coverage(tried, given.seed)
    rng = random.Random(given.seed)
    for _ in range(given.inputs):
        schema = rng.choice(SCHEMAS)
        tried.put(schema, make(rng, schema))
    tried.report()


class Tried:
    """What has been tried so far, and what came of it."""

    def __init__(self, total: int):
        self.counts: Counter[str] = Counter()
        self._total, self._started = total, time.monotonic()
        self._process, self._memory = psutil.Process(), 0

    def put(self, schema: records.Schema, blob: bytes) -> None:
        """Parse one input."""
        self.counts["inputs"] += 1
        if self.counts["inputs"] == min(WARM_UP, self._total // 2):
            self._memory = self._process.memory_info().rss
        try:
            self.counts["taken" if take(schema, blob) else "refused"] += 1
            self._read_json(blob)
        except Exception as error:
            self.counts["crashes"] += 1
            print(f"crash: {schema.kind}: {type(error).__name__}: {error}: {blob[:500]!r}")

    def _read_json(self, blob: bytes) -> None:
        for schema, key, read in (
            (records.EPISODE_EVENT, "plan", EpisodePlan.from_json),
            (records.WEIGHTS, "progress", read_progress),
        ):
            try:
                read(records.unpack(schema, blob).metadata[key])
                self.counts[f"{key} taken"] += 1
            except records.RecordError:
                pass

    def report(self) -> None:
        """Print the counts."""
        seconds = time.monotonic() - self._started
        grown = (self._process.memory_info().rss - self._memory) / 1e6
        for name in ("inputs", "refused", "taken", "plan taken", "progress taken", "crashes"):
            print(f"{name:<20}{self.counts[name]:>12}")
        print(f"{'memory grown, MB':<20}{grown:>12.1f}")
        print(f"{'s':<20}{seconds:>12.0f}")


def make(rng: random.Random, schema: records.Schema) -> bytes:
    """Return a record of a kind with one to four changes."""
    blob = BLOBS[schema.kind]
    for _ in range(rng.randint(1, 4)):
        try:
            blob = rng.choice(CHANGES)(rng, schema, blob)
        except (ValueError, KeyError, IndexError, AttributeError, TypeError, RecursionError):
            blob = flip(rng, schema, blob)  # no header to alter any more
    return blob[: 4 * LONGEST]


def flip(rng, schema, blob: bytes) -> bytes:
    """Change bytes."""
    changed = bytearray(blob or b"\0")
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def overwrite(rng, schema, blob: bytes) -> bytes:
    """Put bytes in the place of others."""
    at = rng.randrange(len(blob))
    return blob[:at] + rng.randbytes(rng.randint(1, 8)) + blob[at + rng.randint(0, 8) :]


def cut(rng, schema, blob: bytes) -> bytes:
    """Leave the end out."""
    return blob[: rng.randrange(len(blob))]


def splice(rng, schema, blob: bytes) -> bytes:
    """Go on with the end of another kind."""
    other = BLOBS[rng.choice(SCHEMAS).kind]
    return blob[: rng.randrange(len(blob))] + other[rng.randrange(len(other)) :]


def lie(rng, schema, blob: bytes) -> bytes:
    """Tell another length of the header."""
    length = rng.choice(
        (0, 1, len(blob), max(0, len(blob) - 8), 2**31, 2**63, 2**64 - 1, rng.getrandbits(16))
    )
    return length.to_bytes(8, "little") + blob[8:]


def alter_text(rng, schema, blob: bytes) -> bytes:
    """Change a value of the metadata."""
    header, data = split(blob)
    header["__metadata__"][rng.choice([*schema.metadata, "kind", "more"])] = rng.choice(
        (*TEXTS, *NUMBERS)
    )
    return pack(header, data)


def alter_tensor(rng, schema, blob: bytes) -> bytes:
    """Change what the header says of a tensor."""
    header, data = split(blob)
    name = rng.choice([n for n in header if n != "__metadata__"])
    numbers = [rng.choice((*NUMBERS, rng.getrandbits(6))) for _ in range(rng.randint(0, 4))]
    entry = header[name]
    change = rng.randrange(6)
    if change == 0:
        entry["shape"] = numbers
    elif change == 1:
        entry["data_offsets"] = numbers
    elif change == 2:
        entry["dtype"] = rng.choice(("F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "", 1))
    elif change == 3:
        header[rng.choice(("more", "base", "\0"))] = header.pop(name)
    elif change == 4:
        header[name] = rng.choice(NUMBERS)
    else:
        start, end = entry["data_offsets"]
        entry["data_offsets"] = [start + rng.randint(-4, 4), end + rng.randint(-4, 4)]
    return pack(header, data)


def not_finite(rng, schema, blob: bytes) -> bytes:
    """Put NaN or infinity among the values."""
    header, data = split(blob)
    at = 4 * rng.randrange(len(data) // 4)
    value = rng.choice((b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\0\0\x80\xff", b"\1\0\xa0\x7f"))
    return pack(header, data[:at] + value + data[at + 4 :])


def alter_json(rng, schema, blob: bytes) -> bytes:
    """Change the JSON within the metadata."""
    header, data = split(blob)
    key, whole = rng.choice((("plan", PLAN), ("progress", PROGRESS), ("config", PLAN)))
    values = dict(whole)
    for _ in range(rng.randint(0, 2)):
        values[rng.choice([*whole, "more"])] = rng.choice((*NUMBERS, *TEXTS))
    header["__metadata__"][key] = json.dumps(values)
    return pack(header, data)


def pack(header: dict, data: bytes) -> bytes:
    """Return a blob of a header and its data."""
    return join(json.dumps(header).encode("utf-8", "surrogatepass"), data)


CHANGES = (flip, overwrite, cut, splice, lie, alter_text, alter_text, alter_tensor, alter_tensor,
           not_finite, alter_json, alter_json)  # fmt: skip


def by_coverage(tried: Tried, seed: int) -> None:
    """Let libFuzzer choose; ends the process."""
    import atheris

    folder = Path(tempfile.mkdtemp())
    for index, schema in enumerate(SCHEMAS):
        (folder / schema.kind).write_bytes(bytes([index]) + BLOBS[schema.kind])
    for reader in (records.unpack, records._read_metadata, records._check_tensors,
                   records._whole, records._numbers, records._names, records._label,
                   records._flag):  # fmt: skip
        setattr(records, reader.__name__, atheris.instrument_func(reader))

    def one(data: bytes) -> None:
        if data:
            tried.put(SCHEMAS[data[0] % len(SCHEMAS)], data[1:])
        if tried.counts["inputs"] >= tried._total:
            tried.report()
            shutil.rmtree(folder)
            os._exit(0)

    arguments = [sys.argv[0], f"-seed={seed + 1}", f"-max_len={LONGEST}", "-rss_limit_mb=4000",
                 "-print_final_stats=0", "-verbosity=0", str(folder)]  # fmt: skip
    atheris.Setup(arguments, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
