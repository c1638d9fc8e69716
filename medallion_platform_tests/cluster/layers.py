"""An image as its layers and its config, and a layer as an archive."""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

_CHUNK = 1 << 20
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Layer:
    """Files of the cache: they change the layers below as an overlay does."""

    folder: Path
    title: str
    """What made it."""

    @property
    def files(self) -> Path:
        """Its files, in a folder."""
        return self.folder / "files"

    @property
    def tar(self) -> Path:
        """Its files in an archive, which is made when it is first asked for."""
        tar = self.folder / "layer.tar"
        if not tar.exists():
            part = tar.with_suffix(".part")
            digest = pack(self.files, part)
            (self.folder / "digest").write_text(digest)
            part.replace(tar)
        return tar

    @property
    def digest(self) -> str:
        """The SHA-256 of its archive."""
        return (self.tar.parent / "digest").read_text()

    @property
    def compressed_bytes(self) -> int:
        """The size of its archive compressed with gzip, as a registry keeps it."""
        kept = self.folder / "compressed"
        if not kept.exists():
            with self.tar.open("rb") as archive:
                kept.write_text(str(_compressed_bytes(archive)))
        return int(kept.read_text())


@dataclass(frozen=True)
class Config:
    """What a container is started with."""

    env: Mapping[str, str] = field(default_factory=lambda: {"PATH": _PATH})
    user: str = ""
    workdir: str = "/"
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """As the specification of OCI's images has it ("config")."""
        return {
            "Env": [f"{name}={value}" for name, value in self.env.items()],
            "User": self.user,
            "WorkingDir": self.workdir,
            "Entrypoint": self.entrypoint,
            "Cmd": self.command,
            "Volumes": {volume: {} for volume in self.volumes},
            "ExposedPorts": {f"{port}/tcp": {} for port in self.ports},
        }


@dataclass(frozen=True)
class Image:
    """Layers, the lowest first, and a config; name: with its tag."""

    layers: tuple[Layer, ...] = ()
    config: Config = field(default_factory=Config)
    name: str = ""


def pack(files: Path, tar: Path) -> str:
    """Put the files of a layer into an archive; returns its SHA-256.

    Deleted files and replaced folders, which an overlay keeps as a device 0:0 and as an attribute, have names
    of their own there ("Whiteouts" in the specification of OCI's layers).
    """
    with tarfile.open(tar, "w") as archive:
        for path in sorted(files.rglob("*")):
            _add(archive, path, path.relative_to(files))
    with tar.open("rb") as packed:
        return hashlib.file_digest(packed, "sha256").hexdigest()


def _add(archive: tarfile.TarFile, path: Path, name: Path) -> None:
    found = path.lstat()
    if stat.S_ISCHR(found.st_mode) and found.st_rdev == 0:
        archive.addfile(tarfile.TarInfo(str(name.with_name(f".wh.{name.name}"))))
        return
    info = archive.gettarinfo(path, str(name))
    info.mtime, info.uname, info.gname = int(info.mtime), "", ""
    if info.isreg():
        with path.open("rb") as content:
            archive.addfile(info, content)
    else:
        archive.addfile(info)
    if info.isdir() and "trusted.overlay.opaque" in os.listxattr(path):
        archive.addfile(tarfile.TarInfo(str(name / ".wh..wh..opq")))


def _compressed_bytes(archive: IO[bytes]) -> int:
    press, total = zlib.compressobj(6, wbits=31), 0
    while chunk := archive.read(_CHUNK):
        total += len(press.compress(chunk))
    return total + len(press.flush())


def parts(image: Image) -> Counter[str]:
    """Bytes of each package of Python, and of the folders beside them."""
    found: Counter[str] = Counter()
    for layer in image.layers:
        for file in layer.files.rglob("*"):
            if file.is_file() and not file.is_symlink():
                found[_part(file.relative_to(layer.files).parts)] += file.stat().st_size
    return found


def _part(path: tuple[str, ...]) -> str:
    if "site-packages" in path:
        below = path[path.index("site-packages") + 1 :]
        return "/".join(below[:2]) if below[:2] == ("pyspark", "jars") else below[0]
    return "/" + "/".join(path[:-1][:3])
