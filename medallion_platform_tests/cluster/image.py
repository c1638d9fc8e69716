"""Builds the image as its `Dockerfile` says, without Docker.

    python -m medallion_platform_tests.cluster.image [FOLDER OF A PROJECT]

prints what it consists of. It needs root, on a Debian machine with debootstrap: the image that `Dockerfile`
begins with is made of the same packages. Each layer is made once and kept in a cache, by a digest of what it
is made from.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from string import Template

from medallion_platform_tests.cluster.container import Place, enter
from medallion_platform_tests.cluster.dockerfile import (
    Context,
    Instruction,
    Mount,
    Stage,
    run_parts,
    stages,
    words,
)
from medallion_platform_tests.cluster.layers import Image, Layer, parts
from medallion_platform_tests.command import REPOSITORY

NAME = "medallion-platform"
USER_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
CACHE = USER_CACHE / "medallion" / "image"
_FORGOTTEN_AFTER = 14 * 24 * 3600
_MIRROR = "http://deb.debian.org/debian"
_UNREAD = ("doc", "info", "lintian", "locale", "man")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy")


class CannotBuild(Exception):
    """The machine lacks something that the builder needs."""


class BuildFailed(Exception):
    """A command of the Dockerfile failed; the text ends with what it said."""


def build(project: Path = REPOSITORY) -> Image:
    """The image of the Dockerfile in a folder with a pyproject.toml, whose name and version it has.

    Raises:
        CannotBuild: the machine lacks something.
        BuildFailed: a step failed.
    """
    if os.geteuid() != 0 or not shutil.which("debootstrap"):
        raise CannotBuild(
            "no debootstrap here, or no root: root builds the image, after apt-get install debootstrap"
        )
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        image = _build(project)
        _forget_old_layers()
    return image


def _build(project: Path) -> Image:
    told = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    context, built, image = Context(project), dict[str, Image](), Image()
    for stage in stages(project / "Dockerfile"):
        image = built.get(stage.base) or _first_image(stage)
        for instruction in stage.instructions:
            image = _apply(image, instruction, context, built)
        built[stage.name] = image
    return replace(image, name=f"{told['name']}:{told['version']}")


def _first_image(stage: Stage) -> Image:
    """What a stage begins with, where that is no other stage."""
    if stage.base.startswith(f"{NAME}:"):
        return _build(REPOSITORY)
    debian = re.match(r"debian:([a-z]+)-", stage.base)
    if debian is None:
        raise ValueError(f"FROM {stage.base}: this builder knows only Debian and {NAME}")
    suite = debian[1]
    made = _layer(_key(stage.base), f"debian {suite}", lambda files: _bootstrap(suite, files))
    return Image((made,))


def _apply(image: Image, instruction: Instruction, context: Context, built: Mapping[str, Image]) -> Image:
    config = image.config
    match instruction.name, instruction.value:
        case "RUN", value:
            return _run(image, value, context, built)
        case "COPY", value:
            source, target = words(value)
            return _copy(image, source, target, context)
        case "ENV", value:
            pairs = (pair.split("=", 1) for pair in words(value))
            new = {name: Template(text).safe_substitute(config.env) for name, text in pairs}
            return replace(image, config=replace(config, env={**config.env, **new}))
        case "USER", value:
            return replace(image, config=replace(config, user=value))
        case "WORKDIR", value:
            return replace(image, config=replace(config, workdir=value))
        case name, value:
            field = {"ENTRYPOINT": "entrypoint", "CMD": "command", "VOLUME": "volumes", "EXPOSE": "ports"}[
                name
            ]
            return replace(image, config=replace(config, **{field: tuple(words(value))}))


def _run(image: Image, value: str, context: Context, built: Mapping[str, Image]) -> Image:
    mounts, command = run_parts(value)
    made_from = [_mount_digest(mount, context, built) for mount in mounts]

    def make(files: Path) -> None:
        env = {**image.config.env, **{name: os.environ[name] for name in _PROXIES if name in os.environ}}
        with tempfile.TemporaryDirectory(prefix="medallion-context-") as given:
            found = {m.target: _mount_place(m, Path(given), context, built) for m in mounts}
            done = enter(
                replace(image, config=replace(image.config, env=env)),
                ["/bin/sh", "-c", command],
                changes=files,
                places={target: place for target, place in found.items() if place},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        if done.returncode:
            raise BuildFailed(f"{command} ended with {done.returncode}:\n{done.stdout[-3000:]}")

    key = _key(_keys(image), value, image.config.as_json(), made_from)
    return replace(image, layers=(*image.layers, _layer(key, shlex.split(command)[-1], make)))


def _copy(image: Image, source: str, target: str, context: Context) -> Image:
    key = _key(_keys(image), "COPY", target, _files_digest(context, source))
    layer = _layer(key, f"COPY {source}", lambda files: context.copy(source, files / target[1:]))
    return replace(image, layers=(*image.layers, layer))


def _mount_place(mount: Mount, given: Path, context: Context, built: Mapping[str, Image]) -> Place | None:
    """What a step finds at the target of a mount; None if there is nothing to give."""
    if mount.type == "secret":  # the certificates of this machine's network
        file = os.environ.get("SSL_CERT_FILE")
        return Place(Path(file)) if file else None
    if mount.type == "cache":
        folder = USER_CACHE / mount.id
        folder.mkdir(parents=True, exist_ok=True)
        return Place(folder, writable=True)
    if mount.stage:  # a folder that one of its layers has alone
        layers = reversed(built[mount.stage].layers)
        return Place(next(f for layer in layers if (f := layer.files / mount.source[1:]).exists()))
    context.copy(mount.source, given / mount.target[1:])
    return Place(given / mount.target[1:])


def _mount_digest(mount: Mount, context: Context, built: Mapping[str, Image]) -> object:
    """What a mount adds to the key of a layer; a cache or a secret changes no result."""
    if mount.type != "bind":
        return None
    return _keys(built[mount.stage]) if mount.stage else _files_digest(context, mount.source)


def _bootstrap(suite: str, files: Path) -> None:
    """Debian's smallest system as its images `-slim` have it: nothing to read, the sources of its fixes."""
    command = ["debootstrap", "--variant=minbase", suite, str(files), _MIRROR]
    done = subprocess.run(["unshare", "--mount", *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildFailed(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stdout[-3000:]}")
    passing = ("dev", "var/cache/apt", "var/lib/apt/lists", "var/log")
    for folder in (*passing, *(f"usr/share/{name}" for name in _UNREAD)):
        for file in (files / folder).rglob("*"):
            if (file.is_symlink() or not file.is_dir()) and file.name != "copyright":
                file.unlink()
    unread = "".join(f"path-exclude /usr/share/{name}/*\n" for name in _UNREAD)
    (files / "etc/dpkg/dpkg.cfg.d/docker").write_text(f"{unread}path-include /usr/share/doc/*/copyright\n")
    signed = "Components: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    (files / "etc/apt/sources.list").unlink()
    (files / "etc/apt/sources.list.d/debian.sources").write_text(
        f"Types: deb\nURIs: {_MIRROR}\nSuites: {suite} {suite}-updates\n{signed}\n"
        f"Types: deb\nURIs: {_MIRROR}-security\nSuites: {suite}-security\n{signed}"
    )
    for name in ("hostname", "hosts", "resolv.conf"):
        (files / "etc" / name).write_text("")


# --- The cache ----------------------------------------------------------------------------------


def _layer(key: str, title: str, make: Callable[[Path], None]) -> Layer:
    """The layer with this key; it is made if the cache does not have it."""
    layer = Layer(CACHE / key, title)
    if layer.folder.exists():
        os.utime(layer.folder)
        return layer
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=CACHE))
    try:
        files = part / "files"
        files.mkdir(mode=0o755)
        started = time.monotonic()
        make(files)
        print(f"image: {title} made in {time.monotonic() - started:.1f} s", file=sys.stderr)
        shutil.rmtree(part / "work", ignore_errors=True)
        part.rename(layer.folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return layer


def _forget_old_layers() -> None:
    """Delete what no build has used for two weeks, and what one that was killed left behind."""
    for folder in CACHE.iterdir():
        unused = time.time() - folder.stat().st_mtime > _FORGOTTEN_AFTER
        if folder.is_dir() and (unused or folder.name.startswith(".part-")):
            shutil.rmtree(folder)


def _keys(image: Image) -> list[str]:
    return [layer.folder.name for layer in image.layers]


def _key(*made_from: object) -> str:
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:32]


def _files_digest(context: Context, source: str) -> str:
    total = hashlib.sha256()
    for path, file in context.files(source):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        total.update(f"{path} {file.stat().st_mode & 0o111:o} {content}\n".encode())
    return total.hexdigest()


def main() -> None:
    """Build the image of a folder, and print its layers and its largest parts."""
    try:
        image = build(Path(sys.argv[1]).resolve() if sys.argv[1:] else REPOSITORY)
    except (CannotBuild, BuildFailed) as error:
        sys.exit(f"image: {error}")
    with ThreadPoolExecutor() as pool:  # zlib works beside Python
        compressed = list(pool.map(lambda layer: layer.compressed_bytes, image.layers))
    sizes = [layer.tar.stat().st_size for layer in image.layers]
    rows = list(zip([layer.title for layer in image.layers], sizes, compressed, strict=True))
    for title, size, less in [*rows, (image.name, sum(sizes), sum(compressed))]:
        print(f"{title:<28} {size / 1e6:8,.1f} MB {less / 1e6:8,.1f} MB compressed")
    print("\nThe largest parts:")
    for part, size in parts(image).most_common(20):
        print(f"{part:<28} {size / 1e6:8,.1f} MB")


if __name__ == "__main__":
    main()
