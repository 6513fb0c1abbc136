"""`midge predict`: a federation's model at its job, on pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from aggregator import checkpoints
from shared import tasks
from shared.errors import ConfigError
from shared.params import Params, from_tensors

LIGHT = 128
"""A picture whose border is on average at least this bright shows dark ink on light paper."""
INK = 64
"""Pixels brighter than this, of 255, belong to what is drawn."""
FRAME = 0.7
"""Share of the picture that the drawing fills, as in MNIST: 20 of 28 pixels."""


@dataclass(frozen=True, slots=True)
class Guess:
    """What the model takes a picture for."""

    image: Path
    label: str
    probability: float
    second: str
    """The next likely label."""


def load(model: Path) -> tuple[tasks.Task, Params]:
    """The model and its task, from a model.safetensors or an aggregator's state directory.

    Raises ConfigError when it is none of ours.
    """
    if model.is_dir():
        checkpoint, problems = checkpoints.load(model)
        if checkpoint is None:
            told = "; ".join(problems) or "it is no aggregator's state directory"
            raise ConfigError(f"{model}: no checkpoint can be read: {told}")
        return tasks.find(checkpoint.task), checkpoint.params
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(model, "np") as file:
            about = file.metadata() or {}
            if "task" not in about:
                raise ConfigError(f"{model}: does not say its task; use what midge demo writes")
            task = tasks.find(about["task"])
            # The file sorts its tensors in its own way; the order is the task's.
            spec = task.initial(0).spec
            params = from_tensors({name: file.get_tensor(name) for name, _ in spec.tensors})
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{model}: cannot be read as a model of Midge: {error}") from error
    if params.spec != spec:
        raise ConfigError(f"{model}: its tensors do not have the shapes of task {task.name}")
    return task, params


def predict(task: tasks.Task, params: Params, images: Sequence[Path]) -> list[Guess]:
    """What each picture shows; ConfigError for one that cannot be read, or a task without
    pictures.
    """
    if task.predict is None or task.picture is None:
        raise ConfigError(f"task {task.name} is not about pictures")
    x: tasks.Features = np.array([prepare(image, task.picture) for image in images], np.uint8)
    guesses = []
    for image, probabilities in zip(images, task.predict(params, x), strict=True):
        best, second = np.argsort(probabilities)[::-1][:2]
        guesses.append(
            Guess(image, task.labels[best], float(probabilities[best]), task.labels[second])
        )
    return guesses


def prepare(path: Path, picture: tuple[int, int, int]) -> tasks.Features:
    """Bring a picture into the form that the task learnt: grey, light on dark, centred, this size.

    One that has the task's size already is only turned to light on dark. Others are cropped to what
    is drawn, scaled to FRAME and centred by mass, as MNIST was made. Gives uint8 (height, width).
    """
    height, width, brightest = picture
    try:
        with Image.open(path) as file:
            grey = ImageOps.grayscale(ImageOps.exif_transpose(file))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ConfigError(f"{path}: cannot be read as a picture: {error}") from error
    pixels = np.asarray(grey)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    if border.mean() >= LIGHT:
        grey = ImageOps.invert(grey)
    if grey.size != (width, height):
        grey = _centred(ImageOps.autocontrast(grey), height, width)
    return np.rint(np.asarray(grey) * (brightest / 255)).astype(np.uint8)


def _centred(grey: Image.Image, height: int, width: int) -> Image.Image:
    """Crop to the ink, scale it into the frame, put its centre of mass into the middle."""
    box = grey.point(lambda value: 255 if value > INK else 0).getbbox()
    ink = grey.crop(box) if box else grey
    factor = min(FRAME * height / ink.height, FRAME * width / ink.width)
    size = max(1, round(ink.width * factor)), max(1, round(ink.height * factor))
    ink = ink.resize(size, Image.Resampling.LANCZOS)
    mass = np.asarray(ink, dtype=np.float64) + 1e-9
    left = round(width / 2 - np.average(np.arange(ink.width) + 0.5, weights=mass.sum(0)))
    top = round(height / 2 - np.average(np.arange(ink.height) + 0.5, weights=mass.sum(1)))
    page = Image.new("L", (width, height))
    page.paste(ink, (left, top))
    return page
