"""Puts a container engine on a machine that has none: Debian's packages, as root. `./dev test --all` calls it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BASE_IMAGE = "docker.io/library/debian:bookworm-slim"
_PACKAGES = (
    "buildah",
    "podman",
    "runc",
    "debootstrap",
    "containernetworking-plugins",
    "netavark",
    "aardvark-dns",
)
_PULL_SECONDS = 60


def prepare() -> None:
    """Make `docker`, or `podman` with `buildah`, usable, and have the base image at hand.

    Exits with what is missing when this machine cannot be prepared.
    """
    if _works("docker", "info"):
        return
    if not (shutil.which("podman") and shutil.which("buildah")):
        _install()
    if not _works("podman", "image", "exists", BASE_IMAGE):
        _fetch_base()


def _install() -> None:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        sys.exit("dev: the container tests need Docker, or podman and buildah; install one of them and run again")
    print("dev: installing podman and buildah for the container tests", flush=True)
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (("update", "-q"), ("install", "-y", "-q", "--no-install-recommends", *_PACKAGES)):
        done = subprocess.run(("apt-get", *command), env=quiet, check=False, stdout=subprocess.DEVNULL)
        if done.returncode:
            sys.exit(f"dev: apt-get {command[0]} failed; see above")


def _fetch_base() -> None:
    try:
        pulled = subprocess.run(
            ("podman", "pull", "-q", BASE_IMAGE), check=False, capture_output=True, timeout=_PULL_SECONDS
        )
    except subprocess.TimeoutExpired:
        pulled = None
    if pulled is None or pulled.returncode:
        _make_base()


def _make_base() -> None:
    """No image registry within reach: the same system from Debian's own packages."""
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        sys.exit(f"dev: {BASE_IMAGE} cannot be pulled; with root and debootstrap it would be made from packages")
    print(f"dev: making {BASE_IMAGE} from Debian's packages", flush=True)
    with tempfile.TemporaryDirectory(prefix="kheish-base-") as folder:
        root = Path(folder) / "root"
        subprocess.run(
            ("debootstrap", "--variant=minbase", "bookworm", str(root), _mirror()),
            check=True,
            stdout=subprocess.DEVNULL,
        )
        with subprocess.Popen(("tar", "-C", str(root), "-c", "."), stdout=subprocess.PIPE) as packed:
            subprocess.run(
                ("podman", "import", "-q", "-", BASE_IMAGE), stdin=packed.stdout, check=True, stdout=subprocess.DEVNULL
            )


def _mirror() -> str:
    """Where this machine's own packages come from."""
    form = "$(REPO_URI) $(COMPONENT) $(CODENAME)"
    listed = subprocess.run(
        ("apt-get", "indextargets", "--format", form, "Created-By: Packages"),
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    for line in listed:
        address, component, codename = line.split()
        if component == "main" and codename == "bookworm" and address.rstrip("/").endswith("/debian"):
            return address
    sys.exit("dev: apt names no mirror of Debian bookworm to make the base image from")


def _works(*command: str) -> bool:
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, check=False, capture_output=True).returncode == 0
