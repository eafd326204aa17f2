"""What a check found: tables, lines beside them, and whether all agrees."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Report:
    """The result of a check. `agrees` is what its exit code tells."""

    agrees: bool = True
    parts: list[str] = field(default_factory=list)

    def line(self, text: str) -> None:
        """Add a line."""
        self.parts.append(text)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Add a table; numbers stand to the right."""
        self.parts.append("\n" + format_table(header, rows) + "\n")

    def __str__(self) -> str:
        return "\n".join(self.parts)


def format_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table as text: columns as wide as what they hold."""
    texts = [[_text(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *texts, strict=True)]
    right = [
        bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        for index in range(len(header))
    ]
    lines = []
    for row in (header, *texts):
        cells = [
            text.rjust(width) if is_number else text.ljust(width)
            for text, width, is_number in zip(row, widths, right, strict=True)
        ]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return "\n".join(lines)


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float | np.floating) else str(value)


class Comparison:
    """Values of one quantity, recorded and computed: how many, how far apart, how many equal."""

    def __init__(self, name: str):
        self.name = name
        self.count = self.equal = 0
        self.largest = 0.0

    def add(self, recorded, computed) -> None:
        """Compare two arrays; equal is equal to the bit."""
        recorded, computed = np.asarray(recorded), np.asarray(computed)
        self.count += 1
        if recorded.shape != computed.shape:
            self.largest = np.inf
            return
        self.equal += recorded.tobytes() == computed.astype(recorded.dtype).tobytes()
        if recorded.size:
            apart = np.abs(recorded.astype(np.float64) - computed.astype(np.float64))
            self.largest = max(self.largest, float(apart.max()))

    @property
    def agrees(self) -> bool:
        """Whether all were equal to the bit."""
        return self.equal == self.count

    HEADER = ("quantity", "compared", "largest difference", "equal to the bit")

    @property
    def row(self) -> tuple[str, int, float, str]:
        """The row of a table."""
        share = f"{self.equal / self.count:.2%}" if self.count else "-"
        return self.name, self.count, self.largest, share
