"""Files of tensors that lie at a site, as torch has them: read strictly first, so that what is wrong has a sentence."""

from __future__ import annotations

from pathlib import Path

import torch

from daitn.base.errors import InputError
from daitn.learning.base_files import check_weights


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """Tensors by name, of any shape. InputError naming the file where it is no safetensors file, or is cut or crafted.
    Cost: reading the file once."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    check_weights(path)
    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{path} cannot be read: {str(error)[:200]}", todo="save the tensors again as a safetensors file"
        ) from None
    return tensors
