"""An optimiser's state as named tensors, which a safetensors file can hold."""

import torch


def pack_optimiser(optimiser: torch.optim.Optimizer, prefix: str) -> dict[str, torch.Tensor]:
    """Return its tensors as `<prefix>.<parameter's index>.<name>`."""
    entries = optimiser.state_dict()["state"]
    return {f"{prefix}.{i}.{name}": v for i, entry in entries.items() for name, v in entry.items()}


def unpack_optimiser(
    optimiser: torch.optim.Optimizer, state: dict[str, torch.Tensor], prefix: str
) -> None:
    """Take over what `pack_optimiser` returned, out of a larger state.

    Raises ValueError, with all as it was, for what is not of this optimiser's parameters.
    """
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    entries: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in state.items():
        if key.startswith(f"{prefix}."):
            index, name = key.removeprefix(f"{prefix}.").split(".")
            if int(index) >= len(parameters):
                raise ValueError(f"{key} beside {len(parameters)} parameters")
            shape = parameters[int(index)].shape
            if value.shape not in ((), shape):
                raise ValueError(f"{key} of shape {tuple(value.shape)}, not {tuple(shape)}")
            entries.setdefault(int(index), {})[name] = value.clone()
    optimiser.load_state_dict(optimiser.state_dict() | {"state": entries})
