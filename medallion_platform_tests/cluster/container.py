"""Runs a command in an image: in an overlay of its layers, and in name spaces of its own."""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medallion_platform_tests.cluster.layers import Image


@dataclass(frozen=True)
class Place:
    """A file or folder of this machine that a command finds in the image."""

    path: Path
    writable: bool = False


def enter(
    image: Image,
    command: Sequence[str],
    *,
    changes: Path | None = None,
    places: Mapping[str, Place] | None = None,
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """Run a command in the image, with its environment, user and folder.

    changes: the folder that becomes the layer of what it changes; without one the file system is read-only,
    except /tmp. places: by where the command finds them: in folders of the image, or below /build, which is
    there with `changes` alone. options: those of `subprocess.run`.
    """
    with tempfile.TemporaryDirectory(prefix="medallion-root-") as root:
        mounts = [_overlay(image, root, changes)]
        mounts += [f"mount --rbind /dev {root}/dev", f"mount -t proc proc {root}/proc"]
        mounts += [f"mount --bind /etc/{name} {root}/etc/{name}" for name in ("hosts", "resolv.conf")]
        mounts += [f"mkdir -p {root}/build"] if changes else []
        mounts += [f"mount -t tmpfs tmpfs {root}/{'build' if changes else 'tmp'}"]
        for target, place in (places or {}).items():
            mounts += _bind(place, shlex.quote(root + target), make=target.startswith("/build/"))
        spaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-c"]
        script = "\n".join(["set -e", *mounts, shlex.join(["exec", *_inside(image, root, command)])])
        done = subprocess.run([*spaces, script], check=False, **options)
    if changes:
        (changes / "build").rmdir()
    return done


def _overlay(image: Image, root: str, changes: Path | None) -> str:
    """The command that mounts the layers of an image, and the one above them that takes what changes."""
    below = ":".join(str(layer.files) for layer in reversed(image.layers))
    above = ""
    if changes:
        work = changes.with_name("work")
        work.mkdir()
        above = f",upperdir={changes},workdir={work}"
    return f"mount -t overlay overlay -o redirect_dir=off,index=off,lowerdir={below}{above} {root}"


def _bind(place: Place, at: str, *, make: bool) -> list[str]:
    made = f"mkdir -p {at}" if place.path.is_dir() else f'mkdir -p "$(dirname {at})"; touch {at}'
    return [
        *([made] if make else []),
        f"mount --bind {shlex.quote(str(place.path))} {at}",
        *([] if place.writable else [f"mount -o remount,bind,ro {at}"]),
    ]


def _inside(image: Image, root: str, command: Sequence[str]) -> list[str]:
    variables = [f"{name}={value}" for name, value in image.config.env.items()]
    user = [f"--userspec={image.config.user}"] if image.config.user else []
    there = ["/bin/sh", "-c", f'cd {image.config.workdir}; exec "$@"', "sh"]
    return ["env", "-i", *variables, "chroot", *user, root, *there, *command]
