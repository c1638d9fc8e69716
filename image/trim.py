"""Removes from an installed environment what no process in the image can use: `trim.py SITE_PACKAGES`."""

from __future__ import annotations

import platform
import re
import shutil
import sys
import zipfile
from pathlib import Path

UNUSED = (
    "feast/ui/build",  # the web UI of Feast, which is none of the roles of the image
    "kubernetes/aio",  # the same client once more, for asyncio
    "numpy/_core/tests",
    "numpy/lib/tests",
    "pandas/tests",
    "pyarrow/include",  # for compilers
    "pyarrow/tests",
    "pyspark/examples",
)
"""Folders of packages that nothing imports but tests, compilers and readers."""
_SOURCE_MAPS = "dagster_webserver/webapp/**/*.map"
"""What a browser's debugger shows in place of the scripts that it runs."""

_LIBRARY = re.compile(r"\.(so|dll|dylib|jnilib)$")
_OTHER_SYSTEM = re.compile(
    r"\.(dll|dylib|jnilib)$|musl|freebsd|aix|sunos|linux-?(32|ppc|s390|riscv|arm(?!64))"
    r"|linux/(arm(?!64)|i386|loongarch|mips|ppc|riscv|s390|x86/)",
    re.IGNORECASE,
)
_OTHER_MACHINE = {
    "x86_64": re.compile(r"aarch_?64|arm64", re.IGNORECASE),
    "aarch64": re.compile(r"x86_64|amd64|linux64(?!.aarch64)", re.IGNORECASE),
}


def is_of_another_machine(entry: str, machine: str) -> bool:
    """Whether this entry of a jar is a library for another system than Linux with glibc on `machine`."""
    other = _OTHER_SYSTEM.search(entry) or _OTHER_MACHINE[machine].search(entry)
    return bool(_LIBRARY.search(entry) and other)


def trim_jar(jar: Path, machine: str) -> None:
    """Leave the libraries of other machines out of a jar; it keeps its time, and all else as it was."""
    with zipfile.ZipFile(jar) as whole:
        kept = [entry for entry in whole.infolist() if not is_of_another_machine(entry.filename, machine)]
        if len(kept) == len(whole.infolist()):
            return
        part = jar.with_suffix(".part")
        with zipfile.ZipFile(part, "w") as smaller:
            for entry in kept:
                smaller.writestr(entry, whole.read(entry), compresslevel=9)
    shutil.copystat(jar, part)
    part.replace(jar)


def trim(packages: Path, machine: str) -> None:
    """Remove all of it.

    packages: the folder `site-packages`. machine: as the kernel names it, x86_64 or aarch64.

    Raises:
        FileNotFoundError: something is not there (any more): this list is out of date.
    """
    for folder in UNUSED:
        shutil.rmtree(packages / folder)
    maps = list(packages.glob(_SOURCE_MAPS))
    if not maps:
        raise FileNotFoundError(packages / _SOURCE_MAPS)
    for file in maps:
        file.unlink()
    for jar in sorted((packages / "pyspark" / "jars").glob("*.jar")):
        trim_jar(jar, machine)


if __name__ == "__main__":
    trim(Path(sys.argv[1]), platform.machine())
