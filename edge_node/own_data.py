"""A node's own files as samples: a folder of pictures, a CSV or an .npz, checked on the way in.

Whatever is wrong with them is a ConfigError that names the file, the place in it and the remedy.
"""

import csv
import difflib
import math
import zipfile
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edge_node import pictures
from shared.errors import ConfigError
from shared.tasks import Data, Features, Task

LIMIT_BYTES = 4 * 2**30
"""The most that is read into memory."""
_SAVED = "make it with numpy.savez(FILE, x=..., y=...)"
_LISTED = 20
"""Labels that a message names."""
_FLOAT_MAX = float(np.finfo(np.float32).max)


def read(path: Path, task: Task, *, resize: bool = False) -> Data:
    """Read a node's own samples.

    - A folder with one subfolder of pictures for each label, named as in `task.labels`; hidden
      files are ignored. They become grey, uint8 (n, height, width), 0..brightest; light on dark,
      as the task has them, is left to the user. With `resize` a picture of another size is scaled
      to the task's, in both directions apart.
    - A .csv with a header: the column `label` (a name of `task.labels`, or its number from 0), all
      others are features, in their order. float32 (n, *shape).
    - An .npz with the arrays `x`, uint8 or float, (n, *shape), and `y`, the labels' numbers.

    `shape` is the task's: of a picture (height, width), else `task.shape`; any, if that is not set.
    Values of pictures must lie in 0..brightest.

    Raises:
        ConfigError: a file is missing, unreadable, larger than LIMIT_BYTES or not of this form.
    """
    if not task.labels:
        raise ConfigError(f"shard.path: task {task.name} has no labels, so it takes no own data")
    try:
        if not path.exists():
            raise ConfigError(f"shard.path: there is no {path}")
        if path.is_dir():
            return _pictures(path, task, resize=resize)
        match path.suffix.lower():
            case ".csv":
                return _csv(path, task)
            case ".npz":
                return _npz(path, task)
    except OSError as error:
        raise ConfigError(f"{error.filename or path}: cannot be read: {error.strerror}") from error
    raise ConfigError(
        f"shard.path: {path} is neither a folder of pictures nor a .csv nor an .npz file"
    )


# Pictures


def _pictures(folder: Path, task: Task, *, resize: bool) -> Data:
    if task.picture is None:
        raise ConfigError(
            f"shard.path: {folder} is a folder, and task {task.name} is not about pictures: "
            "name a .csv or an .npz file"
        )
    height, width, brightest = task.picture
    files = list(_files(folder, task))
    if not files:
        raise ConfigError(
            f"{folder}: no picture in it: make a subfolder for each label ({_listed(task)}) "
            "and put the pictures there"
        )
    _bounded(folder, len(files) * height * width)
    x = np.empty((len(files), height, width), np.uint8)
    for number, (file, _) in enumerate(files):
        grey = pictures.grey(file, height, width, resize=resize)
        x[number] = np.rint(grey * (brightest / 255))
    shape = _shape(task) or (height, width)
    return Data(x.reshape(-1, *shape), np.array([label for _, label in files], np.int64))


def _files(folder: Path, task: Task) -> Iterator[tuple[Path, int]]:
    """All pictures with their labels, in the order of their names."""
    for inner in _visible(folder):
        if not inner.is_dir():
            raise ConfigError(
                f"{inner}: lies in no label's folder: put it into one ({_listed(task)}), "
                "or take it out"
            )
        if inner.name not in task.labels:
            raise ConfigError(f"{inner}: {_unknown(inner.name, task)}")
        for file in _visible(inner):
            if file.suffix.lower() not in pictures.ENDINGS or not file.is_file():
                raise ConfigError(
                    f"{file}: is no picture ({', '.join(pictures.ENDINGS)}): "
                    "convert it, or take it out"
                )
            yield file, task.labels.index(inner.name)


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


# Tables


def _csv(path: Path, task: Task) -> Data:
    _bounded(path, path.stat().st_size)
    values, labels = array("f"), array("q")
    # utf-8-sig: spreadsheets put a mark before the first column's name.
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file, strict=True)
        try:
            columns = [name.strip() for name in next(rows, [])]
            _check_columns(path, columns, task)
            for row in filter(None, rows):
                _take(f"{path}:{rows.line_num}", columns, row, task, values, labels)
        except csv.Error as error:
            raise ConfigError(f"{path}:{rows.line_num}: not a CSV file: {error}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: not UTF-8 text; save it as CSV in UTF-8") from error
    if not labels:
        raise ConfigError(f"{path}: no samples: there is nothing below the header")
    shape = _shape(task) or (len(columns) - 1,)
    x = np.frombuffer(values, np.float32).reshape(len(labels), *shape)
    return Data(_in_range(path, x, task), np.array(labels, np.int64))


def _check_columns(path: Path, columns: list[str], task: Task) -> None:
    if not columns:
        raise ConfigError(f"{path}: is empty: its first line must name the columns")
    if columns.count("label") != 1:
        hint = ""
        if columns.count("label") > 1:
            hint = ", not several"
        elif len(columns) == 1 and ";" in columns[0]:
            hint = "; separate the columns by commas"
        elif "label" in map(str.lower, columns):
            hint = ", in small letters"
        raise ConfigError(f"{path}:1: one column must have the name label{hint}")
    wanted, features = _shape(task), len(columns) - 1
    if features == 0 or (wanted is not None and features != math.prod(wanted)):
        needs = "some" if wanted is None else f"{math.prod(wanted)} features"
        raise ConfigError(
            f"{path}:1: {features} columns beside label, and task {task.name} needs {needs}"
        )


def _take(
    where: str,
    columns: list[str],
    row: list[str],
    task: Task,
    values: "array[float]",
    labels: "array[int]",
) -> None:
    """Add one row's values and label."""
    if len(row) != len(columns):
        raise ConfigError(f"{where}: {len(row)} columns, and the header has {len(columns)}")
    for column, text in zip(columns, row, strict=True):
        if column == "label":
            labels.append(_label(where, text.strip(), task))
        else:
            values.append(_number(f"{where}: {column}", text.strip()))


def _label(where: str, text: str, task: Task) -> int:
    """A label's number, from its name or from the number."""
    if text in task.labels:
        return task.labels.index(text)
    if text in map(str, range(len(task.labels))):
        return int(text)
    raise ConfigError(f"{where}: {_unknown(text, task)}")


def _number(where: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        told = f"{text[:40]!r} is not a number" if text else "there is no number"
        raise ConfigError(f"{where}: {told}; correct it, or leave the line out") from None
    if not abs(value) <= _FLOAT_MAX:
        raise ConfigError(
            f"{where}: {text[:40]} is not a finite number of 32 bits; "
            "correct it, or leave the line out"
        )
    return value


# Arrays


def _npz(path: Path, task: Task) -> Data:
    try:
        with zipfile.ZipFile(path) as file:
            count = _check_header(path, file, "x", task)
            _check_header(path, file, "y", task, count)
            _bounded(path, sum(file.getinfo(name).file_size for name in ("x.npy", "y.npy")))
        with np.load(path, allow_pickle=False) as arrays:
            x, y = arrays["x.npy"], arrays["y.npy"]
    except (ConfigError, OSError):
        raise
    except Exception as error:  # zipfile, zlib and numpy's header raise a dozen kinds
        raise ConfigError(f"{path}: not a whole .npz file; {_SAVED}") from error
    if count == 0:
        raise ConfigError(f"{path}: no samples: x and y have length 0")
    last = len(task.labels) - 1
    outside = np.flatnonzero((y < 0) | (y > last))
    if len(outside):
        raise ConfigError(
            f"{path}: y[{outside[0]}] is {y[outside[0]]}, and the labels' numbers are 0 to {last}"
        )
    if x.dtype != np.uint8:
        with np.errstate(over="ignore"):
            x = x.astype(np.float32)
        finite = np.isfinite(x).reshape(count, -1).all(axis=1)
        if not finite.all():
            raise ConfigError(f"{path}: x[{finite.argmin()}] holds NaN, or infinity in 32 bits")
    return Data(_in_range(path, x, task), y.astype(np.int64))


def _check_header(
    path: Path, file: zipfile.ZipFile, name: str, task: Task, length: int | None = None
) -> int:
    """Check kind and shape of an array before it is loaded; gives its length.

    The header must not claim more than there is: numpy believes it and allocates.
    """
    if f"{name}.npy" not in file.namelist():
        raise ConfigError(f"{path}: has no array {name}; {_SAVED}")
    header = np.lib.format
    with file.open(f"{name}.npy") as member:
        known = {(1, 0): header.read_array_header_1_0, (2, 0): header.read_array_header_2_0}
        version = header.read_magic(member)
        if version not in known:
            raise ValueError(f"version {version} of the format is not for plain arrays")
        shape, _, dtype = known[version](member)
    kinds, told = ("f", "uint8 or float") if name == "x" else ("iu", "whole numbers")
    if dtype.kind not in kinds and not (name == "x" and dtype == np.uint8):
        raise ConfigError(f"{path}: {name} is {dtype}, and must be {told}; convert it by astype")
    wanted = _shape(task) if name == "x" else ()
    if not shape or (wanted is not None and shape[1:] != wanted):
        needs = "(n, ...)" if wanted is None else f"(n{''.join(f', {side}' for side in wanted)})"
        raise ConfigError(
            f"{path}: {name} has the shape {shape}, and task {task.name} needs {needs}"
        )
    if math.prod(shape) * dtype.itemsize > file.getinfo(f"{name}.npy").file_size:
        raise ConfigError(f"{path}: {name} is cut off; {_SAVED}")
    if length not in (None, shape[0]):
        raise ConfigError(f"{path}: x and y have different lengths, {length} and {shape[0]}")
    return int(shape[0])


# What they share


def _shape(task: Task) -> tuple[int, ...] | None:
    """Of one x; None when the task does not tell."""
    return task.picture[:2] if task.picture is not None and task.shape is None else task.shape


def _in_range(path: Path, x: Features, task: Task) -> Features:
    """x, with pictures checked to lie in 0..brightest."""
    if task.picture is not None and not 0 <= x.min() <= x.max() <= task.picture[2]:
        raise ConfigError(
            f"{path}: values run from {x.min():g} to {x.max():g}, and pictures of task {task.name} "
            f"from 0 to {task.picture[2]}; scale them"
        )
    return x


def _bounded(path: Path, count_bytes: int) -> None:
    if count_bytes > LIMIT_BYTES:
        raise ConfigError(
            f"{path}: {count_bytes:,} bytes to hold in memory, more than {LIMIT_BYTES:,}; "
            "use fewer samples"
        )


def _unknown(name: str, task: Task) -> str:
    near = difflib.get_close_matches(name, task.labels, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"unknown label {name[:40]!r}: use {_listed(task)}{hint}"


def _listed(task: Task) -> str:
    first = ", ".join(task.labels[:_LISTED])
    return first if len(task.labels) <= _LISTED else f"{first}, ..."
