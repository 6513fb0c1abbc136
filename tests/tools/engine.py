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
"""For `docker run --label` and `docker network create --label`: of this very run."""

_ANSWER_S = 30.0


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
    """Remove all containers, with their volumes, and then all networks that carry a label."""
    if found := _listed("ps", "--all", label):
        _docker("rm", "--force", "--volumes", *found)
    if found := _listed("network", "ls", label):
        _docker("network", "rm", *found)


def remove_leftovers() -> None:
    """Remove what runs left behind that are no more."""
    labels = set()
    for kind in (("ps", "--all"), ("network", "ls")):
        ids = _listed(*kind, _KEY)
        what = "container" if kind[0] == "ps" else "network"
        path = ".Config.Labels" if kind[0] == "ps" else ".Labels"
        form = f'{{{{index {path} "{_KEY}"}}}}'
        if ids:
            labels |= set(_docker(what, "inspect", "--format", form, *ids).stdout.split())
    for label in labels:
        if not _runs(label):
            remove(f"{_KEY}={label}")


def _runs(label: str) -> bool:
    pid, _, created = label.partition("-")
    try:
        return f"{psutil.Process(int(pid)).create_time():.0f}" == created
    except (psutil.NoSuchProcess, ValueError):
        return False


def _listed(*arguments: str) -> list[str]:
    *command, label = arguments
    return _docker(*command, "--quiet", "--filter", f"label={label}").stdout.split()


def _docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, check=False, timeout=_ANSWER_S
    )
