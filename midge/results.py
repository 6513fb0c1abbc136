"""What a run leaves behind for people: summary, model and curve, all made from its journal and
checkpoint.
"""

import filecmp
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aggregator import checkpoints, journal
from aggregator.journal import JOURNAL
from midge.laboratory import figures
from midge.recording import KEPT
from shared.errors import ConfigError
from shared.params import Params


def writable(out: Path) -> Path:
    """Make the folder; ConfigError when it cannot be written, before any work is done."""
    probe = out / ".writable"
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            f"--out: cannot write to {out}: {error.strerror}; name another folder"
        ) from error
    return out


def summarise(path: Path, *, task: str, seed: int, nodes: int) -> dict[str, Any]:
    """The summary of the run whose journal is at `path`."""
    versions: dict[int, dict[str, Any]] = {}
    scores: dict[int, tuple[float, float]] = {}
    local: dict[int, float] = {}
    for entry in journal.read(path):
        match entry:
            case {"event": "evaluated", "version": int(version), "test_accuracy": float(accuracy)}:
                scores[version] = accuracy, _number(entry["test_loss"])
            case {"event": "local_test", "version": int(version), "accuracy": float(accuracy)}:
                local[version] = accuracy
            case {"event": "version", "version": int(version)}:
                versions[version] = _round(entry)  # made again after a restart: the last one counts
    rounds = [versions[version] for version in sorted(versions)]
    for one in rounds:
        one["test_accuracy"], one["test_loss"] = scores.get(one["version"], (None, None))
        one["local_test_accuracy"] = local.get(one["version"])
    last = rounds[-1] if rounds else {}
    return {
        "task": task,
        "seed": seed,
        "nodes": nodes,
        "rounds": rounds,
        "initial_test_accuracy": scores.get(0, (None, None))[0],
        "final_test_accuracy": last.get("test_accuracy"),
        "model_sha256": last.get("model_sha256"),
        "ledger_sha256": last.get("ledger_sha256"),
    }


def write(out: Path, state_dir: Path, summary: Mapping[str, Any]) -> None:
    """Put summary.json, journal.jsonl, model.safetensors and curve.png into `out`."""
    shutil.copyfile(state_dir / JOURNAL, out / "journal.jsonl")
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    figures.curve(summary).savefig(out / "curve.png", dpi=130)
    checkpoint, _ = checkpoints.load(state_dir)
    if checkpoint is not None:
        path = out / "model.safetensors"
        save_model(path, checkpoint.params, str(summary["task"]), checkpoint.version)


def save_model(path: Path, params: Params, task: str, version: int) -> None:
    """Write a model as `midge predict` reads it."""
    from safetensors.numpy import save

    about = {"task": task, "version": str(version), "model_sha256": params.digest.hex()}
    # By hand: save_file makes a file that only its owner can read.
    path.write_bytes(save(params.tensors(), about))


def check_kept(out: Path) -> None:
    """ConfigError when `keep` would find something in its way that is not of an earlier demo."""
    kept = out / KEPT
    if kept.exists() and not _is_ours(out):
        raise ConfigError(
            f"--out: {kept} is there and not of an earlier demo; name another folder, or move it"
        )


def clear_kept(out: Path) -> None:
    """Delete what `keep` put there for an earlier run; its other files are overwritten too."""
    if _is_ours(out):
        shutil.rmtree(out / KEPT)


def keep(out: Path, state_dir: Path) -> None:
    """Move the aggregator's state to the results, for `midge replay`."""
    shutil.move(state_dir, out / KEPT)


def _is_ours(out: Path) -> bool:
    """Whether the state there is what the results beside it were made from: its journal is the same
    to the byte. An aggregator's own folder has no such copy beside it.
    """
    ours, copy = out / KEPT / JOURNAL, out / "journal.jsonl"
    both = ours.is_file() and copy.is_file() and not (out / KEPT).is_symlink()
    return both and filecmp.cmp(ours, copy, shallow=False)


def _round(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "round": entry["round"],
        "version": entry["version"],
        "seconds": round(_number(entry["seconds"]), 4),
        "bytes_up": entry["bytes_up"],
        "bytes_down": entry["bytes_down"],
        "counted": [one["node"] for one in entry["counted"]],
        "missing": entry["missing"],
        "closed_by": entry["closed_by"],
        "model_sha256": entry["model_sha256"],
        "ledger_sha256": entry["ledger_sha256"],
    }


def _number(value: object) -> float:
    if not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return float(value)
