"""The code of a function as text, which changes when something changes that its result depends on.

Included, wherever the project is: the function, the project's functions, classes, lambdas, partials and
constants that it uses (by name, as a module's attribute, in a closure, as a default), and what these use. Not
included: comments, docstrings, formatting, annotations of plain functions, the location of a file.

The project is the package (or single module) of the function, and every module that is neither installed nor
part of Python. Installed libraries and their versions are not included.

The text comes from syntax trees and values, never from bytecode or addresses, so that it is the same in every
process and every version of Python.
"""

from __future__ import annotations

import ast
import builtins
import dis
import functools
import importlib
import json
import linecache
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from dataclasses import fields, is_dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import partial
from importlib.util import resolve_name
from pathlib import Path, PurePath
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, cast
from uuid import UUID

_PLAIN = (bool, int, float, complex, bytes, Decimal, date, time, timedelta, UUID, range, type(None))
_COLLECTIONS = (list, tuple, set, frozenset, Mapping, partial, Enum)
_NOT_TOLD = ("ctx", "type_comment", "kind", "type_params")
_PLATFORM = __name__.partition(".")[0]
_TRANSFORMS = f"{_PLATFORM}.transforms"
_INSTALLED = {"site-packages", "dist-packages"}
_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


def code_text(function: Callable[..., object], *, ignoring: Iterable[object] = ()) -> str:
    """A text of all code that the function's result depends on; ignoring: decorators that do not count."""
    return _Reader(function, list(ignoring)).text


def forget_files() -> None:
    """Forget the files that were read, because a module of the project was reloaded."""
    _tree_of.cache_clear()
    _definitions_in_file.cache_clear()
    _is_installed.cache_clear()
    linecache.checkcache()


def loaded_files() -> dict[str, int]:
    """When each file of the project that this process has loaded was last written, in nanoseconds."""
    loaded = list(sys.modules.items())  # other threads import meanwhile
    tops = {name.partition(".")[0] for name, _ in loaded}
    own = {top for top in tops - sys.stdlib_module_names - {_PLATFORM, "__main__"} if not _is_installed(top)}
    modules = [module for name, module in loaded if name.partition(".")[0] in own]
    files = {file for module in modules if (file := getattr(module, "__file__", None))}
    return {file: _written(file) for file in files}


def changed_files(loaded: Mapping[str, int]) -> list[str]:
    """Those files that are others now than when `loaded_files` saw them."""
    return sorted(file for file, written in loaded.items() if _written(file) != written)


class _Reader:
    """Follows the code that a function uses; every function and class appears once."""

    def __init__(self, function: Callable[..., object], ignoring: list[object]) -> None:
        self.root = str(getattr(function, "__module__", "")).partition(".")[0]
        self.ignoring = ignoring
        self.seen: dict[object, int] = {}
        self.kept: list[object] = []
        """What is known by its id lives as long as that."""
        self.told: list[str] = []
        self.value(function)
        self.text = "\n".join(self.told)

    # values ---------------------------------------------------------------------------------------

    def value(self, value: object) -> str:
        """A value as text; the code that it uses is added before."""
        if isinstance(value, str):
            return json.dumps(value)
        if isinstance(value, Enum):
            return f"{type(value).__qualname__}.{value.name}={self.value(value.value)}"
        if isinstance(value, _PLAIN):
            return (
                f"{type(value).__name__}:{value.as_posix() if isinstance(value, PurePath) else repr(value)}"
            )
        if isinstance(value, re.Pattern):
            return f"pattern({self.value(value.pattern)}, {int(value.flags)})"
        if isinstance(value, (set, frozenset)):
            return f"set({sorted(map(self.value, cast('set[object]', value)))})"
        if isinstance(value, (list, tuple)):
            kind = "list" if isinstance(value, list) else "tuple"
            return f"{kind}({[self.value(v) for v in cast('list[object]', value)]})"
        if isinstance(value, Mapping):
            pairs = cast("Mapping[object, object]", value).items()
            return f"dict({[(self.value(k), self.value(v)) for k, v in pairs]})"
        if isinstance(value, partial):
            bound: partial[object] = value
            parts = (bound.func, bound.args, bound.keywords)
            return f"partial({', '.join(map(self.value, parts))})"
        if isinstance(value, MethodType):
            return f"method({self.value(value.__func__)}, {self.value(value.__self__)})"
        if isinstance(value, (FunctionType, type)):
            return self._code(value)
        if isinstance(value, (ModuleType, BuiltinFunctionType)):
            return f"{type(value).__name__}:{value.__name__}"
        return self._object(value)

    def _object(self, value: object) -> str:
        if (fingerprint := _contract_fingerprint(value)) is not None:
            return fingerprint
        kind = type(value)
        if not self._is_own(kind.__module__):
            wrapped = getattr(value, "__wrapped__", None)
            return f"{kind.__qualname__}({'' if wrapped is None else self.value(wrapped)})"
        return self._once(id(value), value, lambda: f"{self._code(kind)} {self._state(value)}")

    def _state(self, value: object) -> str:
        if is_dataclass(value):
            return self.value({f.name: getattr(value, f.name) for f in fields(value)})
        state: dict[str, object] = getattr(value, "__dict__", {})
        return self.value({name: state[name] for name in sorted(state)})

    # functions and classes ------------------------------------------------------------------------

    def _once(self, key: object, keep: object, tell: Callable[[], str]) -> str:
        if key not in self.seen:
            self.seen[key] = number = len(self.seen)
            self.kept.append(keep)
            told = tell()
            self.told.append(f"#{number} {told}")
        return f"#{self.seen[key]}"

    def _code(self, code: FunctionType | type) -> str:
        code = getattr(code, "__counts_as__", code)  # a wrapper names what it passes on to
        if (fingerprint := _contract_fingerprint(code)) is not None:
            return fingerprint
        if not self._is_own(code.__module__):
            wrapped = getattr(code, "__wrapped__", None)
            return f"{code.__qualname__}({'' if wrapped is None else self.value(wrapped)})"
        if isinstance(code, type):
            return self._once(code, code, lambda: self._class(code))
        if (implementations := _registered(code)) is not None:
            return self._once(id(code), code, lambda: f"singledispatch({self.value(implementations)})")
        return self._once(id(code), code, lambda: self._function(code))

    def _function(self, function: FunctionType) -> str:
        node = _node_of(function)
        cells = function.__closure__ or ()
        closure = {
            name: cell.cell_contents
            for name, cell in zip(function.__code__.co_freevars, cells, strict=True)
            if _is_filled(cell)
        }
        space = function.__globals__
        told = [_without_source(function.__code__) if node is None else self._tree(node, space)]
        told += [f"{name}={self.value(closure[name])}" for name in sorted(closure)]
        told.append(self.value([function.__defaults__, function.__kwdefaults__]))
        names = _globals_in(function.__code__)
        told += self._names(names, space, node)
        return " ".join(told)

    def _class(self, kind: type) -> str:
        space = vars(sys.modules[kind.__module__]) if kind.__module__ in sys.modules else {}
        node = _definitions_in_file(getattr(sys.modules.get(kind.__module__), "__file__", None))[1].get(
            kind.__qualname__
        )
        if node is None:
            members = {n: v for n, v in vars(kind).items() if not n.startswith("__")}
            return f"{kind.__qualname__} {self.value({n: members[n] for n in sorted(members)})}"
        names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
        told = [self._tree(node, space), *self._names(names, space, node)]
        return " ".join([*told, *(self.value(base) for base in kind.__mro__[1:] if base is not object)])

    def _names(
        self, names: Iterable[str], space: Mapping[str, object], node: ast.AST | None
    ) -> Iterator[str]:
        """The values of global names, and of names imported inside the code."""
        for name in sorted(names):
            if name not in space:
                if not hasattr(builtins, name):
                    yield f"{name}?"
                continue
            yield from self._named(name, space[name], space, node)
        if node is not None:
            for name, value in _imported_in(node, space):
                yield from self._named(name, value, space, node)
            for module in _loaded_in(node, space):
                if self._is_own(module.__name__):
                    yield self._once(("module", module.__name__), module, partial(self._whole, module))

    def _whole(self, module: ModuleType) -> str:
        """All of a module: what is taken from it may be said by a text."""
        space = vars(module)
        names = sorted(name for name in space if not name.startswith("__"))
        return " ".join(told for name in names for told in self._named(name, space[name], space, None))

    def _named(
        self, name: str, value: object, space: Mapping[str, object], node: ast.AST | None
    ) -> Iterator[str]:
        if any(value is ignored for ignored in self.ignoring):
            return
        if isinstance(value, ModuleType):
            if node is not None and self._is_own(value.__name__):
                for path, found in _attributes_read(node, name, value):
                    yield f"{path}={self.value(found)}"
            return
        told = self.value(value)
        if self._is_foreign(value):
            told += self._assigned(name, space)  # of a library's object, how it was made
        yield f"{name}={told}"

    def _is_foreign(self, value: object) -> bool:
        known = isinstance(value, (str, PurePath, *_PLAIN, *_COLLECTIONS, FunctionType, MethodType, type))
        return not known and not self._is_own(type(value).__module__)

    def _assigned(self, name: str, space: Mapping[str, object]) -> str:
        module = sys.modules.get(str(space.get("__name__")))
        tree = _tree_of(getattr(module, "__file__", None))
        for node in reversed(tree.body if tree else []):
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if (alias.asname or alias.name) == name and (found := _imported_module(node, space)):
                        own = self._is_own(found.__name__)
                        return self._assigned(alias.name, vars(found)) if own else ""
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if any(isinstance(t, ast.Name) and t.id == name for t in targets):
                return self._once(
                    (id(space), name), space, partial(self._expression, cast(Any, node).value, space)
                )
        return ""

    def _expression(self, node: ast.expr, space: Mapping[str, object]) -> str:
        names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        return " ".join([self._tree(node, space), *self._names(names, space, node)])

    # syntax ---------------------------------------------------------------------------------------

    def _tree(self, node: ast.AST, space: Mapping[str, object], local: bool = False) -> str:
        """A syntax tree as text, without parts that do not count; the same in every version of Python.

        local: whether it is inside a function, where annotations have no effect.
        """
        if isinstance(node, ast.Constant):
            return json.dumps(node.value) if isinstance(node.value, str) else repr(node.value)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node = copy(node)
            node.decorator_list = [d for d in node.decorator_list if not self._is_ignored(d, space)]
            if not node.decorator_list:  # what decorates a function may read its annotations
                node.returns, node.args = None, _without_annotations(node.args)
        # In a class, an annotation makes a field.
        local = not isinstance(node, ast.ClassDef) and (local or isinstance(node, ast.FunctionDef))
        told: list[str] = []
        for name, value in ast.iter_fields(node):
            items = cast("list[object]", value) if isinstance(value, list) else [value]
            items = [_as_plain_assignment(v) if local and isinstance(v, ast.AnnAssign) else v for v in items]
            items = [v for v in items if not _has_no_effect(v)]
            parts = [self._tree(v, space, local) if isinstance(v, ast.AST) else repr(v) for v in items]
            if name not in _NOT_TOLD and value is not None and parts:
                told.append(f"{name}={', '.join(parts)}")
        return f"{type(node).__name__}({'; '.join(told)})"

    def _is_ignored(self, decorator: ast.expr, space: Mapping[str, object]) -> bool:
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        found = _resolve_name(called, space)
        return any(found is ignored for ignored in self.ignoring)

    def _is_own(self, module: str) -> bool:
        top = module.partition(".")[0]
        if top == _PLATFORM:
            return module.startswith(_TRANSFORMS)
        return top == self.root or (top not in sys.stdlib_module_names and not _is_installed(top))


def _contract_fingerprint(value: object) -> str | None:
    """The fingerprint of a contract, or of the model that declares one."""
    for found in (value, getattr(value, "contract", None)):
        if isinstance(told := getattr(found, "fingerprint", None), str):
            return f"contract:{told}"
    return None


def _registered(function: FunctionType) -> Mapping[str, object] | None:
    """The implementations of a `functools.singledispatch` by their types; None of any other function."""
    known = getattr(function, "registry", None)
    if not isinstance(known, Mapping) or not hasattr(function, "dispatch"):
        return None
    implementations = cast("Mapping[type, object]", known)
    named = {f"{kind.__module__}.{kind.__qualname__}": found for kind, found in implementations.items()}
    return {name: named[name] for name in sorted(named)}


@functools.cache
def _is_installed(top: str) -> bool:
    """Whether a top-level module is in a folder for installed packages, or has no file."""
    module = sys.modules.get(top)
    places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
    return top != "__main__" and all(p is None or _INSTALLED & set(Path(p).parts) for p in places)


def _is_filled(cell: CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:  # what it is to hold is not defined yet
        return False
    return True


def _written(file: str) -> int:
    try:
        return Path(file).stat().st_mtime_ns
    except OSError:  # it is gone
        return 0


@functools.lru_cache(maxsize=256)
def _tree_of(file: str | None) -> ast.Module | None:
    try:
        return ast.parse("".join(linecache.getlines(file))) if file else None
    except SyntaxError:
        return None


@functools.lru_cache(maxsize=256)
def _definitions_in_file(file: str | None) -> tuple[dict[int, list[_Function]], dict[str, ast.ClassDef]]:
    """A file's functions by their first lines, and its classes by their qualified names."""
    functions: dict[int, list[_Function]] = {}
    classes: dict[str, ast.ClassDef] = {}

    def visit(node: ast.AST, path: str) -> None:
        for child in ast.iter_child_nodes(node):
            name = path + (getattr(child, "name", "") or "")  # none of `except ValueError:`
            if isinstance(child, _Function):
                functions.setdefault(_first_line(child), []).append(child)
            if isinstance(child, ast.ClassDef):
                classes[name] = child
            is_class, is_function = isinstance(child, ast.ClassDef), isinstance(child, _Function)
            visit(child, f"{name}." if is_class else f"{name}.<locals>." if is_function else path)

    visit(_tree_of(file) or ast.Module([], []), "")
    return functions, classes


def _node_of(function: FunctionType) -> _Function | None:
    """The syntax tree of a function, found by the line in its code."""
    code = function.__code__
    here = _definitions_in_file(code.co_filename)[0].get(code.co_firstlineno, [])
    if code.co_name != "<lambda>":
        return next((n for n in here if getattr(n, "name", None) == code.co_name), None)
    inside = [n for n in here if isinstance(n, ast.Lambda) and _contains_code(n.body, code)]
    # Of lambdas within each other the outer one holds all, and the inner one is the shortest that does.
    return min(inside, key=lambda n: (n.end_lineno or 0, n.end_col_offset or 0, -n.col_offset), default=None)


def _first_line(node: _Function) -> int:
    return min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])


def _contains_code(body: ast.expr, code: CodeType) -> bool:
    places = [(a, c) for a, _, c, _ in code.co_positions() if a is not None and c is not None]
    ends = [(b, d) for _, b, _, d in code.co_positions() if b is not None and d is not None]
    start, end = (body.lineno, body.col_offset), (body.end_lineno or 0, body.end_col_offset or 0)
    return (start, end) == (min(p for p in places if p[1] or p[0] > start[0]), max(ends)) if places else True


def _globals_in(code: CodeType) -> set[str]:
    """The global names that are read by code and by all code inside it."""
    inner = [c for c in code.co_consts if isinstance(c, CodeType)]
    own = {str(i.argval) for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return own.union(*map(_globals_in, inner))


def _without_source(code: CodeType) -> str:
    """The text of code without a file; it is only stable within one version of Python."""
    consts = [_without_source(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return f"code({code.co_code.hex()} {consts} {code.co_names} {code.co_varnames})"


def _attributes_read(node: ast.AST, name: str, module: ModuleType) -> Iterator[tuple[str, object]]:
    """The attributes read from a module called `name`: `module.function`, `package.module.function`."""
    read = {_path_of(n) for n in ast.walk(node) if isinstance(n, ast.Attribute)}
    for path in sorted(p for p in read if p.startswith(f"{name}.")):
        found: object = module
        for part in path.split(".")[1:]:
            found = getattr(found, part, None)
            if not isinstance(found, ModuleType):
                yield path, found
                break


def _path_of(node: ast.expr) -> str:
    """`package.module.function` of an expression that consists of nothing else, or else ""."""
    if isinstance(node, ast.Attribute):
        return f"{before}.{node.attr}" if (before := _path_of(node.value)) else ""
    return node.id if isinstance(node, ast.Name) else ""


def _imported_in(node: ast.AST, space: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """The names and values that imports inside a function bind."""
    for statement in ast.walk(node):
        if isinstance(statement, ast.ImportFrom):
            module = _imported_module(statement, space)
            for alias in statement.names if module else ():
                yield alias.asname or alias.name, getattr(module, alias.name, None)
        elif isinstance(statement, ast.Import):
            for alias in statement.names:
                whole = sys.modules.get(alias.name)
                top = sys.modules.get(alias.name.partition(".")[0])
                yield (alias.asname, whole) if alias.asname else (alias.name.partition(".")[0], top)


def _loaded_in(node: ast.AST, space: Mapping[str, object]) -> Iterator[ModuleType]:
    """The modules that `import_module` loads by a literal name."""
    for call in ast.walk(node):
        if not isinstance(call, ast.Call):
            continue
        name = call.func.attr if isinstance(call.func, ast.Attribute) else _path_of(call.func)
        if name != "import_module":
            continue
        told = [a.value for a in call.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        for name in told:
            level = len(name) - len(name.lstrip("."))
            if found := _imported_module(ast.ImportFrom(name[level:], [], level), space):
                yield found


def _imported_module(statement: ast.ImportFrom, space: Mapping[str, object]) -> ModuleType | None:
    try:
        package = space.get("__package__")
        within = package if isinstance(package, str) else None
        name = resolve_name("." * statement.level + (statement.module or ""), within)
        return importlib.import_module(name)
    except ImportError:
        return None


def _resolve_name(node: ast.expr, space: Mapping[str, object]) -> object:
    if isinstance(node, ast.Name):
        return space.get(node.id)
    return (
        getattr(_resolve_name(node.value, space), node.attr, None)
        if isinstance(node, ast.Attribute)
        else None
    )


def _without_annotations(arguments: ast.arguments) -> ast.arguments:
    def bare(argument: ast.arg | None) -> ast.arg | None:
        return ast.arg(argument.arg) if argument else None

    found = copy(arguments)
    for name in ("posonlyargs", "args", "kwonlyargs"):
        setattr(found, name, list(map(bare, getattr(found, name))))
    found.vararg, found.kwarg = bare(found.vararg), bare(found.kwarg)
    return found


def _has_no_effect(statement: object) -> bool:
    """Whether a statement is a docstring or another expression without effect."""
    constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return constant or isinstance(statement, ast.Pass)


def _as_plain_assignment(annotated: ast.AnnAssign) -> ast.stmt:
    """`x: int = 1` as `x = 1`."""
    return ast.Assign([annotated.target], annotated.value) if annotated.value else ast.Pass()
