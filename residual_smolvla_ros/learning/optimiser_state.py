"""An optimiser's state as named tensors, which a safetensors file can hold."""

import torch


def pack_optimiser(optimiser: torch.optim.Optimizer, prefix: str) -> dict[str, torch.Tensor]:
    """Return its tensors as `<prefix>.<parameter's index>.<name>`."""
    entries = optimiser.state_dict()["state"]
    return {f"{prefix}.{i}.{name}": v for i, entry in entries.items() for name, v in entry.items()}


def unpack_optimiser(
    optimiser: torch.optim.Optimizer, state: dict[str, torch.Tensor], prefix: str
) -> None:
    """Take over what `pack_optimiser` returned, out of a larger state."""
    entries: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in state.items():
        if key.startswith(f"{prefix}."):
            index, name = key.removeprefix(f"{prefix}.").split(".")
            entries.setdefault(int(index), {})[name] = value.clone()
    optimiser.load_state_dict(optimiser.state_dict() | {"state": entries})
