"""How a contract is declared: a pandera model, which is compiled when its class is created.

    class Events(ContractModel):
        event_id: T.StringType = Field(severity="reject", str_length=(1, 64))
        amount: T.DoubleType = Field(ge=0, nullable=True, severity={"ge": "warn"})
        email: T.StringType = Field(nullable=True, pii="email")

        class Config:
            metadata = {
                "key": ["event_id"],
                "event_time": "event_timestamp",
                "rows": {"session in order": expect("session_end >= session_start", severity="warn")},
            }

    Events.contract

`Field` is pandera's, with four more options (severity, pii, protect, unique), which can also be given in
pandera's `metadata`. Errors of pandera are raised when the model is compiled, with the names of model and
field. An invalid declaration raises ContractError where the class is defined.

In pandera, Python's `int` and `float` have 32 bits.

`Any` in this module is what pandera leaves untyped: options of fields and checks, models and their schemas.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pandera.pyspark as pa
from pandera.api.dataframe.model_components import Field as _PanderaField
from pandera.api.dataframe.model_components import FieldInfo
from pandera.api.pyspark.model_config import BaseConfig

from medallion_platform.contracts.contract import (
    Column,
    Contract,
    ContractError,
    Expectation,
    OneOf,
    Pii,
    Protect,
    Test,
    Values,
)
from medallion_platform.contracts.field_compiler import FieldCompiler
from medallion_platform.contracts.options import flag, has_one_line
from medallion_platform.contracts.table_options import TABLE_OPTIONS, RowRule, TableOptions

_CONFIG_OPTIONS = ("metadata", "name", "unique", "strict", "ordered", "dtype")
_WITHOUT_EFFECT = ("default", "coerce", "on_missing", "parses")
_ILLEGAL = frozenset(" ,;{}()\n\t=\0")
"""What no name of a column may hold, for readers of Delta tables."""


def expect(sql: str, severity: str = "reject") -> RowRule:
    """A boolean SQL expression over the columns of a row, which every row keeps; null passes.

    The language is in docs/severities.md ("Rules in SQL"): comparisons, `between`, `in`, `like`, `is null`,
    arithmetic, `length`, `abs`, `coalesce`, `date`, intervals, `and`, `or`, `not`.

    Example:
        >>> from medallion_platform import expect
        >>> expect("warmest >= coldest", severity="warn").severity
        'warn'
    """
    return RowRule(sql, severity)


class _BadField(FieldInfo):
    """A field whose declaration failed; the error is raised when the model is compiled."""

    reason: str = ""


def Field(
    *,
    severity: str | Mapping[str, str] | None = None,
    pii: Pii | None = None,
    protect: Protect | None = None,
    unique: bool = False,
    metadata: Mapping[str, Any] | None = None,
    **options: Any,
) -> Any:
    """pandera's Field, with the severity of violations, the kind of personal data, and uniqueness.

    protect: how personal data is protected downstream of bronze: "mask" (the default), "tokenize", or for
    names "hash"; what each gives is in docs/add-a-source.md ("Personal data").

    `severity` is one for all checks of the field, or one for each check by its name: pandera's short
    ("ge") or long ("greater_than_or_equal_to"), and "type", "not_null", "unique". Default: reject;
    for unique_values_eq, which validates no row: fail.

    Example:
        >>> import pyspark.sql.types as T
        >>> from medallion_platform import ContractModel, Field
        >>> class Customers(ContractModel):
        ...     email: T.StringType = Field(nullable=True, pii="email", protect="tokenize")
        ...     city: T.StringType = Field(isin=["Bonn", "Ulm"], severity={"isin": "warn"})
        >>> dict(Customers.contract.pii)
        {'email': 'email'}
    """
    words: dict[str, Any] = {
        "severity": severity,
        "pii": pii,
        "protect": protect,
        "unique": unique or None,
    }
    told = dict(metadata or {}) | {word: value for word, value in words.items() if value is not None}
    try:
        for word, given in (("unique", unique), ("nullable", options.get("nullable", False))):
            flag(word, given)
        return _PanderaField(metadata=told or None, **options)
    except Exception as error:
        bad = _BadField()
        bad.reason = str(error)
        return bad


class _ContractAttribute:
    """The attribute `contract`: a descriptor, because pandera treats other public attributes as fields."""

    def __get__(self, _: object, model: type[ContractModel]) -> Contract:
        return vars(model)["_contract"]


class ContractModel(pa.DataFrameModel):
    """A pandera model that is compiled to a `Contract` when its class is created.

    Example:
        >>> import pyspark.sql.types as T
        >>> from medallion_platform import ContractModel, Field, expect
        >>> class Readings(ContractModel):
        ...     station: T.StringType = Field()
        ...     temperature: T.DoubleType = Field(ge=-90, le=60, severity="warn")
        ...
        ...     class Config:
        ...         metadata = {"key": ["station"], "rows": {"measured": expect("temperature is not null")}}
        >>> Readings.contract.key
        ('station',)

    Raises:
        ContractError: the declaration is invalid; the text names model and field.
    """

    contract = _ContractAttribute()

    if TYPE_CHECKING:
        Config: Any  # a plain class is what pandera takes

    def __init_subclass__(cls, **options: Any) -> None:
        _give_each_its_own_field(cls)
        super().__init_subclass__(**options)
        cls._contract = _compile(cls)


def _give_each_its_own_field(model: type[ContractModel]) -> None:
    """A field knows one name, the last it was given: one that several columns share is theirs as a copy."""
    for name, field in list(vars(model).items()):
        if isinstance(field, FieldInfo):
            own = copy.copy(field)
            own.__set_name__(model, name)
            setattr(model, name, own)


def _compile(model: type[ContractModel]) -> Contract:
    name = model.__name__
    _refuse_bad_fields(model)
    _refuse_what_is_not_seen(name, model)
    schema, fields = _read_by_pandera(model)
    _refuse_table_options(name, schema)
    declared = schema.columns
    compiled = [_compile_field(name, declared[column], fields[column][1]) for column in declared]
    columns = {field.column.name: field.column for field in compiled}
    _refuse_names(name, columns.values())
    options = TableOptions(name, columns, _metadata(model, schema))
    expectations = _number_equal_names(
        [
            *(expectation for field in compiled for expectation in field.expectations()),
            *options.unique(schema.unique),
            *options.rows(),
            *options.partitions(),
        ]
    )
    _refuse_equal_names(name, expectations)
    return Contract(
        name=schema.name or name,
        columns=tuple(columns.values()),
        key=options.key(),
        event_time=options.event_time(),
        partitioned_by=options.partitioned_by(),
        watermark=options.watermark(),
        expectations=tuple(expectations),
        row_count_column=options.row_count_column(),
        tolerated_share=options.tolerated_share(),
        description=(model.__doc__ or "").strip() if "__doc__" in vars(model) else "",
    )


def _refuse_bad_fields(model: type[ContractModel]) -> None:
    if "contract" in vars(model):
        raise ContractError(model.__name__, "contract", "this name is taken; give the field an alias")
    for field_name, field in vars(model).items():
        if isinstance(field, _BadField):
            raise ContractError(model.__name__, field_name, field.reason)


def _read_by_pandera(model: type[ContractModel]) -> tuple[Any, Any]:
    """The schema that pandera makes of a model, and the fields of the model by their columns."""
    try:
        return cast(Any, model).to_schema(), cast(Any, model).__fields__
    except ContractError:
        raise
    except Exception as error:
        raise ContractError(model.__name__, _field_in(model, str(error)), str(error)) from error


def _metadata(model: type[ContractModel], schema: Any) -> dict[str, Any]:
    """The options of the table, as declared."""
    told: Any = getattr(cast(Any, model).__config__, "metadata", None) or schema.metadata or {}
    if not isinstance(told, Mapping):
        reason = f"Config.metadata is a {type(told).__name__}, not a mapping of options"
        raise ContractError(model.__name__, None, reason)
    options = dict(cast(Mapping[str, Any], told))
    if unknown := sorted(set(options) - set(TABLE_OPTIONS)):
        reason = f"unknown option {unknown[0]!r}; known are {', '.join(TABLE_OPTIONS)}"
        raise ContractError(model.__name__, None, reason)
    return options


def _compile_field(model: str, declared: Any, field: Any) -> FieldCompiler:
    """The compiler of a field. declared: the column of pandera's schema."""
    for option in _WITHOUT_EFFECT:
        if getattr(field, option, None) not in (None, False, []):
            raise ContractError(model, declared.name, f"{option} is not supported: do it in the transform")
    if field.required is False:
        raise ContractError(model, declared.name, "required=False is not supported: use nullable=True")
    return FieldCompiler(model, declared.name, declared, unique=bool(field.unique))


def _number_equal_names(expectations: Iterable[Expectation]) -> list[Expectation]:
    """The expectations, with a number behind the name of a list of values that begins like an earlier one."""
    numbered: list[Expectation] = []
    tests: dict[str, list[Test]] = {}
    for expectation in expectations:
        before = tests.setdefault(expectation.name, [])
        if before and isinstance(expectation.test, (OneOf, Values)) and expectation.test not in before:
            expectation = replace(expectation, name=f"{expectation.name} ({len(before) + 1})")
        before.append(expectation.test)
        numbered.append(expectation)
    return numbered


def _refuse_equal_names(model: str, expectations: Iterable[Expectation]) -> None:
    names = Counter(expectation.name for expectation in expectations)
    if twice := sorted(name for name, times in names.items() if times > 1):
        raise ContractError(model, None, f"two expectations are called {twice[0]!r}")


def _refuse_what_is_not_seen(name: str, model: type[ContractModel]) -> None:
    """What pandera would pass over, or name in words of its own."""
    for field_name in vars(model).get("__annotations__", {}):
        if field_name.startswith("_") and field_name not in vars(ContractModel):
            raise ContractError(name, field_name, "names that begin with _ are reserved")
    config: Any = vars(model).get("Config")
    given = {option for kind in getattr(config, "__mro__", ()) for option in vars(kind)} if config else set()
    for option in sorted(o for o in given if not o.startswith("_")):
        if option in _CONFIG_OPTIONS or getattr(config, option) == getattr(BaseConfig, option, None):
            continue
        raise ContractError(
            name, None, f"Config.{option} is not supported; known are {', '.join(_CONFIG_OPTIONS[:3])}"
        )


def _refuse_names(name: str, columns: Iterable[Column]) -> None:
    spelled: dict[str, str] = {}
    for column in columns:
        if not column.name or _ILLEGAL & set(column.name) or column.name.startswith("_"):
            raise ContractError(
                name,
                column.name,
                "is no name of a column: it is empty, begins with _ (the platform's own) "
                "or has one of ' ,;{}()='",
            )
        if not has_one_line(column.name):
            raise ContractError(
                name, ascii(column.name), "is no name of a column: parts of it cannot be shown"
            )
        if column.name == "*" or (column.name.startswith("^") and column.name.endswith("$")):
            raise ContractError(
                name,
                column.name,
                "stands for other columns: a field of this name is kept where it is not declared",
            )
        if (other := spelled.setdefault(column.name.lower(), column.name)) != column.name:
            raise ContractError(name, column.name, f"differs from {other!r} only by case")


def _field_in(model: type[ContractModel], text: str) -> str | None:
    """The field that a complaint of pandera speaks of: it is in the text alone."""
    names = vars(model).get("__annotations__", {})
    return next((name for name in names if re.search(rf"'{re.escape(name)}\b", text)), None)


def _refuse_table_options(name: str, schema: Any) -> None:
    if not schema.columns:
        raise ContractError(name, None, "has no columns")
    if schema.name and not (isinstance(schema.name, str) and has_one_line(schema.name)):
        raise ContractError(name, None, f"Config.name {schema.name!a} is no name")
    for option in ("strict", "ordered", "dtype"):
        if getattr(schema, option, None):
            raise ContractError(
                name, None, f"Config.{option} is not supported: other columns pass through as they are"
            )
    if schema.checks:
        raise ContractError(
            name,
            None,
            f"frame check {schema.checks[0].name!r} is not supported: write it as SQL in metadata['rows']",
        )
