"""One picture from a file, grey and of the size that is wanted; whatever is wrong is told in a line
that names the file.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from shared.errors import ConfigError

if TYPE_CHECKING:
    from PIL import Image

ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")
"""pillow knows more, and some of those run programs."""
MOST_PIXELS = 50_000_000
"""Of a picture that is read: cameras make 12 to 50 million."""


def grey(file: Path, height: int, width: int, *, resize: bool) -> npt.NDArray[np.uint8]:
    """Read a picture as grey (height, width), 0..255; of a moving one the first frame.

    What is transparent becomes black, and a camera held sideways is made up for. With `resize` a
    picture of another size is scaled, in both directions apart. Raises ConfigError, or
    PermissionError.
    """
    image = _upright(file)
    if image.size != (width, height) and not resize:
        raise ConfigError(
            f"{file}: is {image.width} x {image.height} pixels and the task's pictures are "
            f"{width} x {height}: scale it, or set resize = true in [shard]"
        )
    from PIL import Image

    if "A" in image.getbands() or "transparency" in image.info:
        black = Image.new("RGBA", image.size, "black")
        image = Image.alpha_composite(black, image.convert("RGBA"))
    if image.mode.startswith("I"):  # 16 bits a pixel: convert("L") would cut them off at 255
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    image = image.convert("L")
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _upright(file: Path) -> "Image.Image":
    try:
        from PIL import Image, ImageOps
    except ModuleNotFoundError as error:
        raise ConfigError(f"{file}: pictures need pillow: pip install pillow") from error
    too_large = ConfigError(f"{file}: has more than {MOST_PIXELS:,} pixels: make it smaller")
    try:
        image = Image.open(file, formats=FORMATS)  # reads the header alone
        with image:
            if image.width * image.height <= MOST_PIXELS:
                return ImageOps.exif_transpose(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise too_large from error
    except PermissionError:
        raise
    except Exception as error:  # what a decoder raises on a broken file is anybody's guess
        raise ConfigError(
            f"{file}: cannot be read as a picture: save it anew, or take it out"
        ) from error
    raise too_large
