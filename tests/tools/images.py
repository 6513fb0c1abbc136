"""Docker images for the tests, made on this machine: no registry is asked for anything.

They stand for the official ones of the same use and are never to be taken for them: the broker is
the Mosquitto of this machine.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

BASE = "midge-test/debian:12"
"""Debian 12 with Python, and what this machine's pip knows about where packages are."""
BROKER = "midge-test/mosquitto:local"
"""This machine's Mosquitto on port 1883; it lets everybody in."""

_MIRROR = "http://deb.debian.org/debian"
_PACKAGES = "ca-certificates,python3,python3-venv"
_AUTHORITIES = Path("etc/ssl/certs/ca-certificates.crt")
_TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
_INPUTS = "midge-test-inputs"
"""The label with a digest of what an image was made of: once that differs, it is made anew."""
_BROKER_CONFIG = """\
listener 1883 0.0.0.0
allow_anonymous true
persistence false
set_tcp_nodelay true
log_dest stderr
"""


def exists(image: str) -> bool:
    """Whether the engine has it."""
    done = subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False)
    return done.returncode == 0


def wheels() -> Path | None:
    """The folder of wheels that this machine's pip knows, which the base then has; or None."""
    named = os.environ.get("PIP_FIND_LINKS", "")
    return Path(named) if named and Path(named).is_dir() else None


def torch_index() -> str:
    """Where, in the base, pip finds a torch without CUDA; "" if among the wheels there."""
    return "" if wheels() else _TORCH_INDEX


def base() -> str:
    """Make Debian 12 as a user's fresh container has it, with Python; needs root."""
    own = wheels()
    names = sorted(file.name for file in own.iterdir()) if own else []
    inputs = _digest(_MIRROR, _PACKAGES, ("/" / _AUTHORITIES).read_bytes(), *names)
    if _made_of(BASE) == inputs:
        return BASE
    assert os.geteuid() == 0, f"making {BASE} needs root: sudo -E {sys.executable} {__file__} base"
    with tempfile.TemporaryDirectory(prefix="midge-image-") as folder:
        root = Path(folder) / "root"
        packages = f"--include={_PACKAGES}"
        _run("debootstrap", "--variant=minbase", packages, "bookworm", root, _MIRROR)
        # What this machine trusts and where its pip looks holds in its containers too.
        shutil.copy("/" / _AUTHORITIES, root / _AUTHORITIES)
        if own:
            shutil.copytree(own, root / "wheels")
            (root / "etc/pip.conf").write_text("[global]\nfind-links = /wheels\n")
        shutil.rmtree(root / "var/cache/apt/archives")
        _import(root, BASE, inputs)
    return BASE


def broker() -> str:
    """Make an image of this machine's Mosquitto and the libraries that it needs."""
    program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    assert program is not None, "needs mosquitto: make broker"
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True)
    files = [program, *(word for word in listed.stdout.split() if word.startswith("/"))]
    inputs = _digest(_BROKER_CONFIG, *files, *(Path(file).read_bytes() for file in files))
    if _made_of(BROKER) == inputs:
        return BROKER
    with tempfile.TemporaryDirectory(prefix="midge-image-") as folder:
        root = Path(folder) / "root"
        for file in files:
            target = root / file.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
        (root / "etc").mkdir(exist_ok=True)
        (root / "etc/passwd").write_text("mosquitto:x:1883:1883::/:/bin/false\n")
        (root / "etc/group").write_text("mosquitto:x:1883:\n")
        (root / "mosquitto.conf").write_text(_BROKER_CONFIG)
        command = f'CMD ["{program}", "-c", "/mosquitto.conf"]'
        _import(root, BROKER, inputs, "EXPOSE 1883", command)
    return BROKER


def _digest(*inputs: str | bytes) -> str:
    return hashlib.sha256(repr(inputs).encode()).hexdigest()


def _made_of(image: str) -> str:
    form = f'{{{{index .Config.Labels "{_INPUTS}"}}}}'
    command = ["docker", "image", "inspect", "--format", form, image]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _import(root: Path, image: str, inputs: str, *changes: str) -> None:
    labelled = (f"LABEL {_INPUTS}={inputs}", *changes)
    options = [word for change in labelled for word in ("--change", change)]
    with subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE) as archive:
        _run("docker", "import", *options, "-", image, stdin=archive.stdout)
    assert archive.returncode == 0


def _run(*command: str | Path, stdin: IO[bytes] | None = None) -> None:
    done = subprocess.run(command, stdin=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[0]} failed: {done.stdout[-2000:]}{done.stderr[-2000:]}"


if __name__ == "__main__":
    for name in sys.argv[1:] or ("base", "broker"):
        {"base": base, "broker": broker}[name]()
