"""The kinds of formats and connectors by name: the platform's own, and those of other packages.

A class declares its kind (`class Csv(TextFormat, kind="csv")`). A kind of the platform is in the module of
that name. A kind of another package is an entry point, and is imported when it is first used. Other packages
cannot replace the platform's own names.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import Generic, TypeVar
from warnings import warn

from medallion_platform.errors import Kind, MedallionError

T = TypeVar("T")


class UnknownKind(MedallionError):
    """There is no such kind, or its package cannot be used."""

    kind = Kind.PERMANENT


class Kinds(Generic[T]):
    """All kinds of one sort.

    group: of the entry points for kinds of other packages. package: the package of the platform's own kinds.

    Example:
        >>> from medallion_platform import FORMATS
        >>> FORMATS.load("csv")(delimiter=";").delimiter
        ';'
    """

    def __init__(self, group: str, package: str) -> None:
        self.group = group
        self.package = package
        self._known: dict[str, type[T]] = {}

    def register(self, name: str, made: type[T]) -> None:
        """Register a class under a name.

        Raises:
            UnknownKind: the name belongs to another class.
        """
        if not made.__module__.startswith(f"{self.package}."):
            self._import_own(name)
        known = self._known.setdefault(name, made)
        if (known.__module__, known.__qualname__) != (made.__module__, made.__qualname__):
            raise UnknownKind(
                f"{made.__module__}.{made.__qualname__} is named {name!r}, as {known.__module__}."
                f"{known.__qualname__} is already",
                remedy="give it another name",
            )
        self._known[name] = made

    def load(self, name: str) -> type[T]:
        """The kind of this name, imported if necessary; the platform's own has precedence.

        Raises:
            UnknownKind: there is none; the text lists the known kinds.
        """
        self._import_own(name)
        for found in entry_points(group=self.group, name=name):
            if name not in self._known:
                self._import(found)
            elif self._known[name].__module__.startswith(f"{self.package}."):
                warn(
                    f"{name!r} of the package {_package_of(found)} is not used: the platform has a kind of "
                    "that name",
                    stacklevel=2,
                )
        try:
            return self._known[name]
        except KeyError:
            sort = self.group.rpartition(".")[2]
            known = ", ".join(self.names())
            raise UnknownKind(f"there is no kind {name!r} of {sort}; there are {known}") from None

    def names(self) -> list[str]:
        """The names of all kinds, without importing those of other packages."""
        for module in iter_modules(import_module(self.package).__path__, f"{self.package}."):
            import_module(module.name)
        return sorted({*self._known, *entry_points(group=self.group).names})

    def _import_own(self, name: str) -> None:
        """Import the platform's module of this name, if there is one; it may define no kind."""
        if name.isidentifier() and find_spec(f"{self.package}.{name}"):
            import_module(f"{self.package}.{name}")

    def _import(self, found: EntryPoint) -> None:
        by = _package_of(found)
        try:
            found.load()
        except Exception as error:  # whatever a package of others does when it is imported
            raise UnknownKind(
                f"{found.name!r} of the package {by} cannot be imported: {type(error).__name__}: {error}"
            ) from error
        if found.name not in self._known:
            raise UnknownKind(f"the package {by} names {found.value} as {found.name!r}, which it is not")


def _package_of(found: EntryPoint) -> str:
    """The name of the package with an entry point, for people."""
    return f"{found.dist.name} {found.dist.version}" if found.dist else found.value
