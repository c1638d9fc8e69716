"""What a plain install leaves out because it is big and not everybody needs it, by the extra that brings it.

    pip install "medallion-platform[kafka]"

What needs an extra asks for it where it is declared, or where a command begins: `need` then tells in one
sentence what to install. pyproject.toml names the packages; a test holds both against each other.
"""

from __future__ import annotations

from importlib.util import find_spec

from medallion_platform.errors import Kind, MedallionError

EXTRAS = {
    "kafka": ("confluent_kafka", "fastavro"),
    "feast": ("feast", "duckdb", "ibis"),
    "ui": ("dagster_webserver",),
    "k8s": ("dagster_k8s",),
}
"""The modules that each extra brings. `all` brings those of all of them."""


class MissingExtra(MedallionError):
    """Something is used whose libraries are not installed."""

    kind = Kind.PERMANENT

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(
            f"{what} needs the extra [{extra}], which is not installed",
            remedy=f'pip install "medallion-platform[{extra}]"',
        )


def need(extra: str, what: str) -> None:
    """See to it that what an extra brings is there; nothing is imported. `what` needs it, for people.

    Raises:
        MissingExtra: some of it is not installed.
    """
    if any(find_spec(module) is None for module in EXTRAS[extra]):
        raise MissingExtra(what, extra)
