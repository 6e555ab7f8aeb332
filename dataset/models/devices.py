"""Choose the device that torch computes on."""

import torch

from dataset.errors import said_by
from dataset.models.files import ModelError


def device_named(name: str | None) -> torch.device:
    """Return the device with this name; if None, the first GPU, or the CPU.

    Raises: ModelError when this machine has no such device.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without CUDA
        raise ModelError(
            f"Cannot use the device {name} ({said_by(error)}): give cpu, cuda or cuda:N, or omit --device."
        ) from error
