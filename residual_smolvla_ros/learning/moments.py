"""Mean and variance of what arrives batch by batch."""

from dataclasses import dataclass, field

import torch


def _zero() -> torch.Tensor:
    return torch.zeros((), dtype=torch.float64)


@dataclass(frozen=True)
class Moments:
    """Count, mean and variance of rows, float64; none at first."""

    count: torch.Tensor = field(default_factory=_zero)
    mean: torch.Tensor = field(default_factory=_zero)
    variance: torch.Tensor = field(default_factory=_zero)

    def merged(self, rows: torch.Tensor) -> "Moments":
        """Return the moments of all so far and of further rows (n, ...).

        Source: Chan et al. 1979, Updating formulae and a pairwise algorithm for computing sample
        variances.
        """
        rows = rows.double()
        added = float(len(rows))
        count = self.count + added
        shift = rows.mean(dim=0) - self.mean
        spread = self.count * self.variance + added * rows.var(dim=0, correction=0)
        return Moments(
            count,
            self.mean + shift * added / count,
            (spread + shift.square() * self.count * added / count) / count,
        )

    def state(self, prefix: str) -> dict[str, torch.Tensor]:
        """Return the three by `<prefix>.<name>`, if there are any."""
        return (
            {}
            if not self.count
            else {f"{prefix}.{name}": value for name, value in vars(self).items()}
        )

    @classmethod
    def from_state(cls, state: dict[str, torch.Tensor], prefix: str) -> "Moments":
        """Return what `state` gave."""
        if f"{prefix}.count" not in state:
            return cls()
        return cls(*(state[f"{prefix}.{name}"] for name in ("count", "mean", "variance")))
