"""An image as an archive, and in the nodes of a cluster."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shlex
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from medallion_platform_tests.cluster.layers import Image

_OCI = "application/vnd.oci.image"


class LoadFailed(Exception):
    """A node did not take an image."""


def write_archive(image: Image, out: IO[bytes], *, known: frozenset[str] = frozenset()) -> None:
    """Write an image as `docker save` does: `docker load` and `ctr images import` read it.

    known: digests of blobs that the reader has and that are left out.
    """
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
        "os": "linux",
        "config": image.config.as_json(),
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.digest}" for layer in image.layers]},
    }
    oci = "application/vnd.oci.image"
    config_blob = json.dumps(config).encode()
    layers = [_descriptor(f"{oci}.layer.v1.tar", f.digest, f.tar.stat().st_size) for f in image.layers]
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{oci}.manifest.v1+json",
        "config": _descriptor(f"{oci}.config.v1+json", _sha256(config_blob), len(config_blob)),
        "layers": layers,
    }
    blob = json.dumps(manifest).encode()
    named = _descriptor(f"{oci}.manifest.v1+json", _sha256(blob), len(blob))
    full = f"docker.io/library/{image.name}"
    annotations = {"io.containerd.image.name": full, "org.opencontainers.image.ref.name": full.split(":")[1]}
    index = {"schemaVersion": 2, "manifests": [{**named, "annotations": annotations}]}
    for_docker = {
        "Config": f"blobs/sha256/{_sha256(config_blob)}",
        "RepoTags": [image.name],
        "Layers": [f"blobs/sha256/{layer.digest}" for layer in image.layers],
    }
    with tarfile.open(fileobj=out, mode="w|") as archive:
        _add_bytes(archive, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        _add_bytes(archive, "index.json", json.dumps(index).encode())
        _add_bytes(archive, "manifest.json", json.dumps([for_docker]).encode())
        for content in (config_blob, blob):
            _add_bytes(archive, f"blobs/sha256/{_sha256(content)}", content)
        for layer in image.layers:
            if f"sha256:{layer.digest}" not in known:
                archive.add(layer.tar, f"blobs/sha256/{layer.digest}")


def _add_bytes(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def _descriptor(media_type: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": size}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def load(image: Image, sockets: Iterable[Path]) -> None:
    """Put an image into the containerd of each node; layers that are there are not sent again.

    Raises:
        LoadFailed: a node did not take it.
    """
    for socket in sockets:
        ctr = ["ctr", "--address", str(socket), "--namespace", "k8s.io"]
        listed = subprocess.run(
            [*ctr, "content", "ls", "--quiet"], capture_output=True, text=True, check=True
        )
        with subprocess.Popen(
            [*ctr, "images", "import", "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        ) as importing:
            assert importing.stdin
            write_archive(image, importing.stdin, known=frozenset(listed.stdout.split()))
            importing.stdin.close()
        if importing.returncode:
            raise LoadFailed(f"{shlex.join(ctr)} took no image: it ended with {importing.returncode}")
