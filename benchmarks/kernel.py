"""What the kernel says of a process: memory, CPU time, bytes; in bytes and seconds."""

import os
from pathlib import Path

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def peak_bytes(pid: int) -> float:
    """The most that a process ever had resident (VmHWM)."""
    return _kilobytes(Path(f"/proc/{pid}/status"), "VmHWM:")


def resident_bytes(pid: int) -> float:
    """What a process has resident now (VmRSS)."""
    return _kilobytes(Path(f"/proc/{pid}/status"), "VmRSS:")


def shared_out_bytes(pid: int) -> float:
    """The same with pages that several processes share divided among them (PSS)."""
    return _kilobytes(Path(f"/proc/{pid}/smaps_rollup"), "Pss:")


def cpu_s(pid: int) -> float:
    """CPU seconds of a process and all its threads until now."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


def moved_bytes(pid: int) -> tuple[float, float]:
    """Bytes that a process has read and written; of Mosquitto nearly all are those of its
    sockets.
    """
    lines = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return float(lines["rchar"]), float(lines["wchar"])


def _kilobytes(path: Path, name: str) -> float:
    for line in path.read_text().splitlines():
        if line.startswith(name):
            return float(line.split()[1]) * 1024
    raise ProcessLookupError(f"{path} says nothing of {name}: the process has ended")
