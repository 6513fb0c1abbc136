"""Docker images for the tests, made on this machine: no registry is asked for anything.

They stand for the official ones of the same use and are never to be taken for them: the broker is
the Mosquitto of this machine.
"""

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
_AUTHORITIES = Path("etc/ssl/certs/ca-certificates.crt")
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


def base() -> str:
    """Make Debian 12 as a user's fresh container has it, with Python; needs root."""
    if exists(BASE):
        return BASE
    with tempfile.TemporaryDirectory(prefix="midge-image-") as folder:
        root = Path(folder) / "root"
        packages = "--include=ca-certificates,python3,python3-venv"
        _run("debootstrap", "--variant=minbase", packages, "bookworm", root, _MIRROR)
        # What this machine trusts and where its pip looks holds in its containers too.
        shutil.copy("/" / _AUTHORITIES, root / _AUTHORITIES)
        wheels = os.environ.get("PIP_FIND_LINKS", "")
        if Path(wheels).is_dir():
            shutil.copytree(wheels, root / "wheels")
            (root / "etc/pip.conf").write_text("[global]\nfind-links = /wheels\n")
        shutil.rmtree(root / "var/cache/apt/archives")
        _import(root, BASE)
    return BASE


def broker() -> str:
    """Make an image of this machine's Mosquitto and the libraries that it needs."""
    if exists(BROKER):
        return BROKER
    program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    assert program is not None, "needs mosquitto: make broker"
    with tempfile.TemporaryDirectory(prefix="midge-image-") as folder:
        root = Path(folder) / "root"
        listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True)
        libraries = [word for word in listed.stdout.split() if word.startswith("/")]
        for file in (program, *libraries):
            target = root / file.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
        (root / "etc").mkdir(exist_ok=True)
        (root / "etc/passwd").write_text("mosquitto:x:1883:1883::/:/bin/false\n")
        (root / "etc/group").write_text("mosquitto:x:1883:\n")
        (root / "mosquitto.conf").write_text(_BROKER_CONFIG)
        command = f'CMD ["{program}", "-c", "/mosquitto.conf"]'
        _import(root, BROKER, "EXPOSE 1883", command)
    return BROKER


def _import(root: Path, image: str, *changes: str) -> None:
    options = [word for change in changes for word in ("--change", change)]
    archive = subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE)
    _run("docker", "import", *options, "-", image, stdin=archive.stdout)
    assert archive.wait() == 0


def _run(*command: str | Path, stdin: IO[bytes] | None = None) -> None:
    done = subprocess.run(command, stdin=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[0]} failed: {done.stdout[-2000:]}{done.stderr[-2000:]}"


if __name__ == "__main__":
    for name in sys.argv[1:] or ("base", "broker"):
        {"base": base, "broker": broker}[name]()
