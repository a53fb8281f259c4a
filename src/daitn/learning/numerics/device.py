"""Which device a visit computes on: an accelerator where the node has one, else the CPU. The plan names the device."""

from __future__ import annotations

import torch

from daitn.base.errors import UnavailableError


def find_accelerators() -> tuple[str, ...]:
    """Names of the accelerators that torch can use here, such as `cuda:0 NVIDIA H200`; empty without any."""
    if torch.cuda.is_available():
        return tuple(f"cuda:{index} {torch.cuda.get_device_name(index)}" for index in range(torch.cuda.device_count()))
    if torch.backends.mps.is_available():
        return ("mps",)
    return ()


def choose_device(wanted: str = "") -> torch.device:
    """The device called `wanted` (`cpu`, `cuda`, `cuda:1`, `mps`), or the best there is if empty.

    UnavailableError where the plan names a device that is not here.
    """
    if not wanted:
        found = find_accelerators()
        return torch.device(found[0].split(" ")[0] if found else "cpu")
    try:
        device = torch.device(wanted)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UnavailableError(
            f"device {wanted!r} is not available here: {str(error).splitlines()[0]}",
            todo="let the plan name one of: " + ", ".join((*find_accelerators(), "cpu")),
        ) from None
    return device


def synchronise(device: torch.device) -> None:
    """Wait until everything ordered on `device` is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
