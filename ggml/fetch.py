"""Fetch the pinned ggml source: download the package that carries it, check its hash, unpack one folder.

Used by ggml/CMakeLists.txt; needs nothing beyond pip and the standard library.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "ggml-python"
VERSION = "0.0.45"  # carries ggml 0.15.3 in vendor/ggml (MIT licence)
SHA256 = "10aac52075cf3c7ef2b00d6c35b1c23f7b018dbeff8ae8df67339b4be1166f05"
PREFIX = "vendor/ggml/"


def download(folder: Path) -> Path:
    """Download the source package with pip and return the archive's path."""
    base = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    spec = ["--no-deps", "--no-binary", ":all:", "--dest", str(folder), f"{PACKAGE}=={VERSION}"]
    # Inside a build the requirements of the package's own metadata step are there already.
    for extra in (["--no-build-isolation"], []):
        result = subprocess.run(base + extra + spec, capture_output=True, text=True)
        archives = sorted(folder.glob("*.tar.gz"))
        if result.returncode == 0 and archives:
            return archives[0]
    raise SystemExit(f"pip could not download {PACKAGE} {VERSION}:\n{result.stderr}")


def unpack(archive: Path, destination: Path) -> None:
    """Unpack the ggml folder of the archive to `destination`, atomically."""
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != SHA256:
        raise SystemExit(f"{archive.name}: sha256 is {digest}, expected {SHA256}; refusing to build it")
    staging = destination.with_name(destination.name + ".part")
    shutil.rmtree(staging, ignore_errors=True)
    with tarfile.open(archive) as tar:
        for member in tar:
            inner = member.name.split("/", 1)[-1]
            if not member.isfile() or not inner.startswith(PREFIX):
                continue
            relative = Path(inner[len(PREFIX) :])
            if relative.is_absolute() or ".." in relative.parts:
                raise SystemExit(f"{archive.name}: unsafe path {member.name}")
            target = staging / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            content = tar.extractfile(member)
            assert content is not None
            target.write_bytes(content.read())
    shutil.rmtree(destination, ignore_errors=True)
    staging.rename(destination)


def main() -> None:
    """Fetch into the folder named on the command line."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: fetch.py DESTINATION")
    destination = Path(sys.argv[1])
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        unpack(download(Path(folder)), destination)


if __name__ == "__main__":
    main()
