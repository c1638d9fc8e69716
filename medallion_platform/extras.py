"""What a plain install leaves out because it is big and not everybody needs it, by the extra that brings it.

    pip install "medallion-platform[kafka]"

A declaration or a command that needs an extra calls `require_extra`, which says in one sentence what to
install. pyproject.toml names the packages; a test compares the two.
"""

from __future__ import annotations

from importlib.util import find_spec

from medallion_platform.errors import Kind, MedallionError

EXTRAS = {
    "kafka": ("confluent_kafka", "fastavro"),
    "feast": ("feast", "duckdb", "ibis"),
    "ui": ("dagster_webserver",),
    "k8s": ("dagster_k8s", "dagster_postgres", "kubernetes"),
}
"""The modules that each extra brings. `all` brings those of all of them."""


class MissingExtra(MedallionError):
    """Something needs libraries that are not installed."""

    kind = Kind.PERMANENT

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(
            f"{what} needs the extra [{extra}], which is not installed",
            remedy=f'pip install "medallion-platform[{extra}]"',
        )


def require_extra(extra: str, what: str) -> None:
    """Check that the libraries of an extra are installed, without importing them; what: needs it, for people.

    Raises:
        MissingExtra: some of it is not installed.
    """
    if not is_installed(extra):
        raise MissingExtra(what, extra)


def is_installed(extra: str) -> bool:
    """Whether all libraries of an extra are there."""
    return all(find_spec(module) for module in EXTRAS[extra])
