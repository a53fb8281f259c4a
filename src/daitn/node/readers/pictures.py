"""Pictures: bytes of a PNG or JPEG file as an array, under limits. Only these two decoders are ever tried."""

from __future__ import annotations

import io
import warnings
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from daitn.base.errors import InputError
from daitn.describe.conversion import Unreadable
from daitn.node.readers.contract import IMAGE_FILE_BYTES, IMAGE_PIXELS

_GRAY: Final = ("1", "L", "LA")
_COLOUR: Final = ("P", "RGB", "RGBA", "YCbCr", "CMYK", "PA")


def decode_picture(data: bytes) -> NDArray[np.uint8] | Unreadable:
    """uint8 (H, W) for gray, (H, W, 3) for colour pictures; `Unreadable` says why not. Transparency is dropped.

    The size a file claims is checked before a pixel is decoded; 16 bits a value are refused, not rounded.
    """
    image_module = _need_pillow()
    if len(data) > IMAGE_FILE_BYTES:
        return Unreadable(f"{len(data)} bytes, the limit is {IMAGE_FILE_BYTES}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", image_module.DecompressionBombWarning)  # our own limit is lower
            with image_module.open(io.BytesIO(data), formats=("PNG", "JPEG")) as picture:
                width, height = picture.size
                if width * height > IMAGE_PIXELS:
                    return Unreadable(f"{width} × {height} pixels, the limit is {IMAGE_PIXELS}")
                if picture.mode in _GRAY:
                    return np.asarray(picture.convert("L"), dtype=np.uint8)
                if picture.mode in _COLOUR:
                    return np.asarray(picture.convert("RGB"), dtype=np.uint8)
                return Unreadable(f"pixels of kind {picture.mode!r}, not 8 bits gray or colour")
    except (OSError, ValueError, SyntaxError, image_module.DecompressionBombError) as error:
        return Unreadable(str(error))


def _need_pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise InputError("pictures need the package pillow", todo="install daitn[data]") from None
    return Image
