import io
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edge_node import own_data, pictures
from edge_node.own_data import read
from shared import tasks
from shared.errors import ConfigError

PHOTOS = replace(
    tasks.find("null"), name="photos", labels=("cat", "dog", "horse"), picture=(4, 6, 255)
)
WINE = replace(PHOTOS, name="wine", picture=None, shape=(3,))
BYTES = np.arange(2 * 24, dtype=np.uint8).reshape(2, 4, 6)


def told(path: Path, task: tasks.Task = PHOTOS, *, resize: bool = False) -> str:
    """The one line that wrong files are answered with."""
    with pytest.raises(ConfigError) as caught:
        read(path, task, resize=resize)
    line = str(caught.value)
    assert "\n" not in line
    return line


# Anything


def test_what_is_not_there_or_of_no_known_kind_is_told(tmp_path: Path) -> None:
    assert told(tmp_path / "no") == f"shard.path: there is no {tmp_path}/no"
    (tmp_path / "x.txt").touch()
    assert "neither a folder of pictures nor a .csv nor an .npz" in told(tmp_path / "x.txt")
    assert "task null has no labels" in told(tmp_path, tasks.find("null"))
    (tmp_path / "x.npz").mkdir()
    assert "no picture in it" in told(tmp_path / "x.npz")


@pytest.mark.parametrize("name", ["x.csv", "x.npz", "folder"])
def test_what_may_not_be_read_is_told(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    save(tmp_path / "folder" / "cat" / "a.png")
    (tmp_path / "x.csv").touch()
    (tmp_path / "x.npz").touch()
    monkeypatch.setattr(Path, "open", forbidden)
    monkeypatch.setattr(Path, "iterdir", forbidden)
    monkeypatch.setattr(zipfile.ZipFile, "__init__", lambda _, path: forbidden(path))
    assert told(tmp_path / name) == f"{tmp_path / name}: cannot be read: Permission denied"


# Pictures


def save(
    path: Path,
    image: Image.Image | None = None,
    size: tuple[int, int] = (6, 4),
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or Image.new("L", size, 200)).save(path)
    return path


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    save(tmp_path / "dog" / "b.png", Image.fromarray(BYTES[0]))
    save(tmp_path / "dog" / "a.BMP", Image.fromarray(BYTES[1]))
    save(tmp_path / "cat" / "z.png")
    (tmp_path / "horse").mkdir()
    (tmp_path / ".DS_Store").touch()
    (tmp_path / "dog" / ".hidden").touch()
    data = read(tmp_path, PHOTOS)
    assert data.x.dtype == np.uint8
    assert data.y.tolist() == [0, 1, 1]
    assert np.array_equal(data.x[1:], BYTES[::-1])


@pytest.mark.parametrize("ending", pictures.ENDINGS)
def test_every_kind_of_picture_is_read(tmp_path: Path, ending: str) -> None:
    save(tmp_path / "cat" / f"x{ending}")
    assert read(tmp_path, PHOTOS).x == pytest.approx(200, abs=2)


def test_values_are_scaled_to_the_tasks_brightest(tmp_path: Path) -> None:
    save(tmp_path / "cat" / "x.png", Image.fromarray(np.array([[0, 127, 255]], np.uint8)))
    data = read(tmp_path, replace(PHOTOS, picture=(1, 3, 16)))
    assert data.x.tolist() == [[[0, 8, 16]]]


def test_the_tasks_own_shape_wins(tmp_path: Path) -> None:
    save(tmp_path / "cat" / "x.png")
    assert read(tmp_path, replace(PHOTOS, shape=(1, 4, 6))).x.shape == (1, 1, 4, 6)


@pytest.mark.parametrize(
    ("image", "grey"),
    [
        (Image.new("RGB", (6, 4), (255, 0, 0)), 76),
        (Image.new("RGBA", (6, 4), (255, 255, 255, 0)), 0),
        (Image.new("RGBA", (6, 4), (255, 255, 255, 128)), 128),
        (Image.new("LA", (6, 4), (90, 255)), 90),
        (Image.new("1", (6, 4), 1), 255),
        (Image.new("I;16", (6, 4), 65535), 255),
        (Image.new("I;16", (6, 4), 300), 1),
    ],
)
def test_colours_transparency_and_16_bits_become_grey(
    tmp_path: Path, image: Image.Image, grey: int
) -> None:
    save(tmp_path / "cat" / "x.png", image)
    assert np.unique(read(tmp_path, PHOTOS).x).tolist() == [grey]


def test_a_camera_held_sideways_is_made_up_for(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    (tmp_path / "cat").mkdir()
    Image.new("L", (4, 6), 50).save(tmp_path / "cat" / "x.png", exif=exif)
    assert read(tmp_path, PHOTOS).x.shape == (1, 4, 6)


def test_another_size_is_refused_or_scaled(tmp_path: Path) -> None:
    path = save(tmp_path / "cat" / "x.png", size=(60, 20))
    assert told(tmp_path) == (
        f"{path}: is 60 x 20 pixels and the task's pictures are 6 x 4: "
        "scale it, or set resize = true in [shard]"
    )
    assert np.unique(read(tmp_path, PHOTOS, resize=True).x).tolist() == [200]


def test_a_label_that_the_task_does_not_have_is_told(tmp_path: Path) -> None:
    save(tmp_path / "dogs" / "x.png")
    assert told(tmp_path) == (
        f"{tmp_path}/dogs: unknown label 'dogs': use cat, dog, horse; did you mean dog?"
    )


def test_many_labels_are_not_all_listed(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    task = replace(PHOTOS, labels=tuple(f"l{number}" for number in range(100)))
    assert told(tmp_path, task).count("l") < 50


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.png", b"", "lies in no label's folder: put it into one (cat, dog, horse)"),
        ("cat/notes.txt", b"", "is no picture (.bmp, .gif,"),
        ("cat/more/x.png", b"", "more: is no picture"),
        ("cat/x.png", b"", "x.png: cannot be read as a picture: save it anew, or take it out"),
        ("cat/x.png", b"GIF89a", "cannot be read as a picture"),
        ("cat/x.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 4\n", "cannot be read as"),
    ],
)
def test_what_is_no_picture_is_told(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(content)
    assert says in told(tmp_path)


def test_a_picture_that_is_cut_off_is_told(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 60)).astype(np.uint8)
    path = save(tmp_path / "cat" / "x.png", Image.fromarray(noise))
    path.write_bytes(path.read_bytes()[:-900])
    assert f"{path}: cannot be read as a picture" in told(tmp_path, resize=True)


@pytest.mark.parametrize("side", [8_000, 10_000, 20_000])
def test_a_decompression_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, side: int) -> None:
    (tmp_path / "cat").mkdir()
    header = struct.pack(">II5B", side, side, 1, 0, 0, 0, 0)
    path = tmp_path / "cat" / "x.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b""))
    assert told(tmp_path, resize=True) == (
        f"{path}: has more than 50,000,000 pixels: make it smaller"
    )


def chunk(name: bytes, body: bytes) -> bytes:
    """A piece of a PNG file."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def test_a_task_that_is_not_about_pictures_takes_no_folder(tmp_path: Path) -> None:
    assert "task wine is not about pictures: name a .csv or an .npz" in told(tmp_path, WINE)


def test_without_pillow_the_remedy_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "cat" / "x.png")
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert told(tmp_path).endswith("pictures need pillow: pip install pillow")


# CSV


def table(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "mine.csv"
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize(
    "text",
    [
        "a,label,b,c\n1,dog,2.5,-3e1\n4,cat,5,6\n",
        "label,a,b,c\r\n1,1,2.5,-30\r\n\r\n0,4,5,6",
        '\ufeff a , b , c ,"label"\n 1 ,2.5,-30, dog\n4,5,6,cat\n',
    ],
)
def test_a_table_is_read_by_its_header(tmp_path: Path, text: str) -> None:
    data = read(table(tmp_path, text), WINE)
    assert data.x.dtype == np.float32
    assert data.x.tolist() == [[1, 2.5, -30], [4, 5, 6]]
    assert data.y.tolist() == [1, 0]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.lists(
                st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=3
            ),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_every_number_comes_through(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, list[float]]]
) -> None:
    lines = [",".join([*map(repr, values), WINE.labels[label]]) for label, values in rows]
    path = table(tmp_path_factory.mktemp("csv"), "\n".join(["a,b,c,label", *lines]))
    data = read(path, WINE)
    assert data.y.tolist() == [label for label, _ in rows]
    assert np.array_equal(data.x, np.array([values for _, values in rows], np.float32))


def test_features_take_the_tasks_shape(tmp_path: Path) -> None:
    path = table(tmp_path, "a,b,c,d,label\n1,2,3,4,dog\n")
    assert read(path, replace(WINE, shape=(2, 2))).x.tolist() == [[[1, 2], [3, 4]]]
    assert read(path, replace(WINE, shape=None)).x.shape == (1, 4)
    pixels = replace(PHOTOS, picture=(2, 2, 9))
    assert read(path, pixels).x.tolist() == [[[1, 2], [3, 4]]]
    assert told(path, replace(PHOTOS, picture=(2, 2, 3))).endswith(
        "values run from 1 to 4, and pictures of task photos from 0 to 3; scale them"
    )


HEADER = "a,b,c,label\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", ": is empty: its first line must name the columns"),
        (HEADER, ": no samples: there is nothing below the header"),
        ("a,b,c,kind\n", ":1: one column must have the name label"),
        ("a,b,c,Label\n", ":1: one column must have the name label, in small letters"),
        ("a,b,label,label\n", ":1: one column must have the name label, not several"),
        (
            "a;b;c;label\n",
            ":1: one column must have the name label; separate the columns by commas",
        ),
        ("a,b,label\n", ":1: 2 columns beside label, and task wine needs 3 features"),
        ("label\n", ":1: 0 columns beside label, and task wine needs 3 features"),
        (HEADER + "1,2,3,dog\n\n1,2,dog\n", ":4: 3 columns, and the header has 4"),
        (HEADER + "1,2,x,dog\n", ":2: c: 'x' is not a number; correct it, or leave the line out"),
        (HEADER + "1,2,,dog\n", ":2: c: there is no number; correct it"),
        (HEADER + "1,2,nan,dog\n", ":2: c: nan is not a finite number of 32 bits; correct it"),
        (HEADER + "1,2,-inf,dog\n", ":2: c: -inf is not a finite number of 32 bits"),
        (HEADER + "1,2,1e39,dog\n", ":2: c: 1e39 is not a finite number of 32 bits"),
        (HEADER + "1,2,3,dig\n", ":2: unknown label 'dig': use cat, dog, horse; did you mean dog?"),
        (HEADER + "1,2,3,3\n", ":2: unknown label '3': use cat, dog, horse"),
        (HEADER + "1,2,3,-1\n", ":2: unknown label '-1'"),
        (HEADER + '"1,2,3,dog\n', ":2: not a CSV file: unexpected end of data"),
        (HEADER + f"{'1' * 200_000},2,3,dog\n", ":2: not a CSV file: field larger than"),
    ],
)
def test_a_wrong_table_is_told_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    path = table(tmp_path, text)
    line = told(path, WINE)
    assert line.startswith(f"{path}{says}")


def test_a_table_in_another_encoding_is_told(tmp_path: Path) -> None:
    path = table(tmp_path, HEADER + "1,2,3,h\xf6rse\n", "latin-1")
    assert told(path, WINE) == f"{path}: not UTF-8 text; save it as CSV in UTF-8"


def test_a_table_beyond_the_limit_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_data, "LIMIT_BYTES", 1000)
    path = table(tmp_path, HEADER + "1,2,3,dog\n" * 100)
    assert "1,012 bytes to hold in memory, more than 1,000; use fewer samples" in told(path, WINE)


# Arrays

X, Y = BYTES, np.array([2, 0])


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("save_arrays", [np.savez, np.savez_compressed])
def test_arrays_are_read(tmp_path: Path, dtype: type, save_arrays: Callable[..., None]) -> None:
    save_arrays(tmp_path / "a.npz", x=X.astype(dtype), y=Y.astype(np.int8), more=np.zeros(3))
    data = read(tmp_path / "a.npz", PHOTOS)
    assert data.x.dtype == (np.uint8 if dtype is np.uint8 else np.float32)
    assert np.array_equal(data.x, X)
    assert data.y.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": X}, "has no array y; make it with numpy.savez(FILE, x=..., y=...)"),
        ({"x": X.astype(int), "y": Y}, "x is int64, and must be uint8 or float; convert it"),
        ({"x": X, "y": Y * 1.0}, "y is float64, and must be whole numbers; convert it"),
        ({"x": X, "y": Y > 0}, "y is bool, and must be whole numbers"),
        ({"x": X[:, :3], "y": Y}, "x has the shape (2, 3, 6), and task photos needs (n, 4, 6)"),
        ({"x": np.uint8(1), "y": Y}, "x has the shape ()"),
        ({"x": X, "y": Y[:, None]}, "y has the shape (2, 1), and task photos needs (n)"),
        ({"x": X, "y": Y[:1]}, "x and y have different lengths, 2 and 1"),
        ({"x": X[:0], "y": Y[:0]}, "no samples: x and y have length 0"),
        ({"x": X, "y": Y + 1}, "y[0] is 3, and the labels' numbers are 0 to 2"),
        ({"x": X, "y": Y - 1}, "y[1] is -1, and"),
        ({"x": X, "y": np.array([0, 2**64 - 1], np.uint64)}, "y[1] is 18446744073709551615"),
        ({"x": np.where(X == 30, np.nan, X), "y": Y}, "x[1] holds NaN, or infinity in 32 bits"),
        ({"x": X * 1e60, "y": Y}, "x[0] holds NaN, or infinity in 32 bits"),
        ({"x": X - 1.0, "y": Y}, "values run from -1 to 46, and pictures of task photos from 0 to"),
        ({"x": np.array([None, 1]), "y": Y}, "x is object, and must be uint8 or float"),
        ({"x": X, "y": np.array([None, 1])}, "y is object, and must be whole numbers"),
        ({"x": np.zeros(2, [("a", "f4")]), "y": Y}, "x is [('a', '<f4')], and must be"),
    ],
)
def test_wrong_arrays_are_told(tmp_path: Path, arrays: dict[str, np.ndarray], says: str) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    assert told(path).startswith(f"{path}: {says}")


def test_any_shape_will_do_when_the_task_does_not_tell(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X.reshape(2, 3, 8), y=Y)
    assert read(tmp_path / "a.npz", replace(WINE, shape=None)).x.shape == (2, 3, 8)


def header(shape: str, version: int = 1) -> bytes:
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode()
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text


@pytest.mark.parametrize(
    ("member", "says"),
    [
        (b"", "not a whole .npz file; make it with numpy.savez"),
        (b"junk", "not a whole .npz file"),
        (header("(2, 4, 6)")[:30], "not a whole .npz file"),
        (header("__import__('os')"), "not a whole .npz file"),
        (header("(" * 60), "not a whole .npz file"),
        (header("(2, 4, 6)", version=3), "not a whole .npz file"),
        (header("(2, 4, 6)") + b"x" * 10, "not a whole .npz file"),
        (header("(1000000000000, 4, 6)"), "x is cut off"),
        (header(f"({10**30}, 4, 6)"), "x is cut off"),
        (header("(-1, 4, 6)"), "x and y have different lengths, -1 and 2"),
    ],
)
def test_a_header_that_lies_is_found_out_before_anything_is_loaded(
    tmp_path: Path, member: bytes, says: str
) -> None:
    path = tmp_path / "a.npz"
    labels = io.BytesIO()
    np.save(labels, Y)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x.npy", member)
        file.writestr("y.npy", labels.getvalue())
        file.writestr("x", labels.getvalue())  # numpy would take this one for x
    assert told(path).startswith(f"{path}: {says}")


@given(st.data())
def test_a_damaged_file_is_refused_or_read_never_anything_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    np.savez(path, x=X, y=Y)
    whole = bytearray(path.read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=3)):
        whole[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)) | st.just(len(whole)))])
    try:
        found = read(path, PHOTOS)
    except ConfigError:
        return
    assert found.x.shape == X.shape


def test_what_would_not_fit_into_memory_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.zeros((5000, 4, 6), np.uint8), y=np.zeros(5000, np.int64))
    monkeypatch.setattr(own_data, "LIMIT_BYTES", 100_000)
    assert path.stat().st_size < 10_000
    assert "160,256 bytes to hold in memory, more than 100,000" in told(path)
    save(tmp_path / "folder" / "cat" / "x.png")
    monkeypatch.setattr(own_data, "LIMIT_BYTES", 20)
    assert "folder: 24 bytes to hold in memory" in told(tmp_path / "folder")
