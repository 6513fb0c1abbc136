from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from safetensors.numpy import save_file

from aggregator import checkpoints
from aggregator.events import Checkpoint
from midge import predict
from shared import tasks
from shared.errors import ConfigError

PICTURE = (28, 28, 255)


def seven(path: Path, size: tuple[int, int], ink: int, paper: int) -> Path:
    image = Image.new("L", size, paper)
    width, height = size
    top, right = height // 4, width * 2 // 3
    ImageDraw.Draw(image).line(
        [(width // 3, top), (right, top), (width // 2, height * 3 // 4)],
        fill=ink,
        width=width // 20,
    )
    image.save(path)
    return path


def test_a_picture_of_the_right_size_is_taken_as_it_is(tmp_path: Path) -> None:
    pixels = np.zeros((28, 28), np.uint8)
    pixels[10:20, 12:15] = 200
    Image.fromarray(pixels).save(tmp_path / "p.png")
    assert np.array_equal(predict.prepare(tmp_path / "p.png", PICTURE), pixels)


def test_dark_ink_on_paper_becomes_light_on_dark(tmp_path: Path) -> None:
    light = predict.prepare(seven(tmp_path / "a.png", (280, 280), 255, 0), PICTURE)
    dark = predict.prepare(seven(tmp_path / "b.png", (280, 280), 0, 255), PICTURE)
    assert np.array_equal(light, dark)


def test_a_photo_is_cropped_scaled_and_centred(tmp_path: Path) -> None:
    pixels = predict.prepare(seven(tmp_path / "a.png", (640, 480), 30, 230), PICTURE)
    rows, _ = np.nonzero(pixels > 100)
    assert pixels.shape == (28, 28)
    assert 18 <= rows.max() - rows.min() + 1 <= 20
    mass = pixels.astype(np.float64)
    assert np.average(np.arange(28), weights=mass.sum(0)) == pytest.approx(13.5, abs=1)
    assert np.average(np.arange(28), weights=mass.sum(1)) == pytest.approx(13.5, abs=1)


def test_values_are_scaled_to_those_of_the_task(tmp_path: Path) -> None:
    Image.fromarray(np.pad(np.full((4, 4), 255, np.uint8), 2)).save(tmp_path / "p.png")
    assert predict.prepare(tmp_path / "p.png", (8, 8, 16)).max() == 16


def test_an_empty_page_is_no_error(tmp_path: Path) -> None:
    Image.new("L", (50, 50), 255).save(tmp_path / "p.png")
    assert predict.prepare(tmp_path / "p.png", PICTURE).shape == (28, 28)


def test_a_file_that_is_no_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "p.png").write_text("no picture")
    with pytest.raises(ConfigError, match=r"p\.png: cannot be read as a picture"):
        predict.prepare(tmp_path / "p.png", PICTURE)


def test_a_model_of_another_shape_is_refused(tmp_path: Path) -> None:
    spec = tasks.find("digits").initial(0).spec
    tensors = {name: np.zeros((2, 2), np.float32) for name, _ in spec.tensors}
    save_file(tensors, tmp_path / "m.safetensors", metadata={"task": "digits"})
    with pytest.raises(ConfigError, match="do not have the shapes of task digits"):
        predict.load(tmp_path / "m.safetensors")


def test_a_foreign_model_is_refused(tmp_path: Path) -> None:
    save_file({"w": np.zeros(2, np.float32)}, tmp_path / "m.safetensors")
    with pytest.raises(ConfigError, match="does not say its task"):
        predict.load(tmp_path / "m.safetensors")


def test_a_model_finds_its_tensors_whatever_their_order_in_the_file(tmp_path: Path) -> None:
    params = tasks.find("digits").initial(5)
    shuffled = dict(sorted(params.tensors().items(), reverse=True))
    save_file(shuffled, tmp_path / "m.safetensors", metadata={"task": "digits"})
    task, loaded = predict.load(tmp_path / "m.safetensors")
    assert loaded.digest == params.digest
    Image.new("L", (8, 8), 0).save(tmp_path / "p.png")
    (guess,) = predict.predict(task, loaded, [tmp_path / "p.png"])
    assert guess.label in task.labels
    assert 0 <= guess.probability <= 1


def test_a_task_without_pictures_says_so() -> None:
    task = tasks.find("null")
    with pytest.raises(ConfigError, match="task null is not about pictures"):
        predict.predict(task, task.initial(0), [])


def test_a_running_aggregators_model_is_read_from_its_state_directory(tmp_path: Path) -> None:
    params = tasks.find("digits").initial(3)
    checkpoint = Checkpoint("r", "digits", 1, 1, "0" * 16, 0, (), 0, 4, params)
    checkpoints.save(tmp_path, checkpoint, keep=3)
    task, loaded = predict.load(tmp_path)
    assert (task.name, loaded.digest) == ("digits", params.digest)


def test_a_folder_without_checkpoints_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no aggregator's state directory"):
        predict.load(tmp_path)
