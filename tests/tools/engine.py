"""The Docker engine of this machine: whether it can be used, and nothing of ours left in it.

What tests start carries a label that names their process, so that what a run left behind that was
killed is told from what another run still uses.
"""

import os
import subprocess

import images
import psutil

_KEY = "midge-test"
LABEL = f"{_KEY}={os.getpid()}-{psutil.Process().create_time():.0f}"
"""Of this very run, for the `--label` of what Docker makes."""

_ANSWER_S = 30.0
# Where its labels are, how it is listed and how it is removed: containers first, they use the rest.
_KINDS = {
    "container": (".Config.Labels", ["ls", "--all"], ["rm", "--force", "--volumes"]),
    "network": (".Labels", ["ls"], ["rm"]),
    "volume": (".Labels", ["ls"], ["rm"]),
    "image": (".Config.Labels", ["ls"], ["rm", "--force"]),
}


def lacks() -> str | None:
    """What stands in the way of tests with containers, and the remedy."""
    try:
        asked = _docker("version", "--format", "{{.Server.Version}}")
    except FileNotFoundError:
        return "needs Docker: make docker"
    except subprocess.TimeoutExpired:
        return f"the Docker engine has not answered in {_ANSWER_S:.0f} s"
    if asked.returncode:
        return f"needs a Docker engine that answers: make docker ({asked.stderr.strip()})"
    missing = [image for image in (images.BASE, images.BROKER) if not images.exists(image)]
    return f"needs the images {', '.join(missing)}: make docker" if missing else None


def remove(label: str) -> None:
    """Remove all that carries a label: containers, networks, volumes and images."""
    for kind, (_, _, removal) in _KINDS.items():
        for one in _listed(kind, label):
            _docker(kind, *removal, one)


def remove_leftovers() -> None:
    """Remove what runs left behind that are no more."""
    labels = set()
    for kind, (path, _, _) in _KINDS.items():
        form = f'{{{{index {path} "{_KEY}"}}}}'
        if ids := _listed(kind, _KEY):
            labels |= set(_docker(kind, "inspect", "--format", form, *ids).stdout.split())
    for label in labels:
        if not _runs(label):
            remove(f"{_KEY}={label}")


def _runs(label: str) -> bool:
    pid, _, created = label.partition("-")
    try:
        return f"{psutil.Process(int(pid)).create_time():.0f}" == created
    except (psutil.NoSuchProcess, ValueError):
        return False


def _listed(kind: str, label: str) -> list[str]:
    listing = _KINDS[kind][1]
    return _docker(kind, *listing, "--quiet", "--filter", f"label={label}").stdout.split()


def _docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, check=False, timeout=_ANSWER_S
    )
