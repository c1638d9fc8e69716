"""Histories of changing rows: built from change events, and looked up as of a point in time.

Both functions depend only on the set of their rows: arrival order, batches and duplicates do not matter, so
that an increment and a rebuild give the same table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyspark.sql import Column, DataFrame, Window, WindowSpec
from pyspark.sql import functions as F
from pyspark.sql.types import StringType

from medallion_platform.contracts.spark_engine import quoted
from medallion_platform.pipeline.intake.column_names import PLATFORM, folded, own_name
from medallion_platform.sources.formats.debezium.operations import DELETE, READ, TRUNCATE, UPSERTS
from medallion_platform.sources.formats.debezium.source_position import TRANSACTION
from medallion_platform.sources.formats.debezium.values import UNTOLD

_PLACE = ("_source", "_offset")
"""Where an event came: the log that it was read from (a partition of a topic, files), and where there."""


def versions(changes: DataFrame, key: str) -> DataFrame:
    """Every version (SCD2) of every row that the change events of one table tell of.

    Events are ordered by source position (`_sequence`), not by arrival nor by time, unless both of
    these say that the source's log began anew (`_with_eras`). A repeated
    event, a re-snapshot of an unchanged row and an update that changes nothing make no new
    version. A delete closes its key's open version, a truncate (no key) that of every key. Where
    two events share key and position, a delete is the later one, a snapshot read the earlier one.
    A value that was not told is the one before it; where there is none it stays `UNTOLD`.

    key: the column that names a row, or several columns that do so together.

    Example:
        >>> changes = spark.sql(
        ...     "select 'vienna' as city, 'blue' as line, 1 as stops, 'c' as _op, '01' as _sequence, "
        ...     "timestamp '2026-01-05 08:00:00' as _changed_at "
        ...     "union all select 'vienna', 'blue', 2, 'u', '02', timestamp '2026-01-06 08:00:00'"
        ... )
        >>> found = versions(changes, ["city", "line"]).orderBy("source_position")
        >>> [(row.city, row.stops, row.is_current) for row in found.collect()]
        [('vienna', 1, False), ('vienna', 2, True)]

    A version is valid in [effective_from, effective_to). Should the source's clock run backwards,
    a version starts no earlier than the one before it, so that validities never overlap; such a
    version may then be empty.

    Returns:
        `key`, the row's columns, `effective_from`, `effective_to` (null: still open),
        `is_current` and `source_position`, the position of the event that began the version, which
        sorts as the versions do. A column of the row with one of these names is there under another one
        (`own_name`).
    """
    columns = [c for c in changes.columns if not c.startswith("_") and c != key]
    places = [c for c in _PLACE if c in changes.columns]
    events = changes.select(
        *places,
        quoted(key),
        F.col("_sequence").alias("_position"),
        F.col("_changed_at").try_cast("timestamp").alias("_at"),
        F.col("_op"),
        F.struct(*map(quoted, columns)).alias("_state"),
    )
    own = events.where(quoted(key).isNotNull() & F.col("_op").isin(*UPSERTS, DELETE))
    truncates = events.where(F.col("_op") == TRUNCATE).drop(key)
    # Made distinct at the end: where there are no truncates, Spark leaves out all of it.
    everyone = own.select(quoted(key)).crossJoin(F.broadcast(truncates)).distinct()
    events = own.unionByName(everyone).select(
        quoted(key),
        *places,
        "_position",
        "_at",
        F.col("_op").isin(DELETE, TRUNCATE).alias("_gone"),
        F.when(F.col("_op") == READ, 0).when(F.col("_op").isin(*UPSERTS), 1).otherwise(2).alias("_tie"),
        F.when(F.col("_op").isin(*UPSERTS), F.col("_state")).alias("_state"),
    )

    events = _with_eras(events, key) if len(places) == len(_PLACE) else events.withColumn("_era", F.lit(0))

    # One shuffle and one sort serve these windows: the order of each is a prefix of the first one's.
    arrival = Window.partitionBy(quoted(key)).orderBy("_era", "_position", "_tie", "_at", "_state")
    by_position = Window.partitionBy(quoted(key)).orderBy("_era", "_position")
    place = F.struct("_era", "_position")
    next_place = F.lead(place).over(arrival)
    last_there = next_place.isNull() | (next_place != place)
    one_a_position = events.withColumn("_last", last_there).where("_last").drop("_last", "_tie")

    texts = [f.name for f in changes.schema if f.name in columns and isinstance(f.dataType, StringType)]
    whole = one_a_position.withColumn("_state", _told(columns, texts, by_position))
    # A vanished row has the null state, as has a row before its first event.
    before = whole.withColumn("_before", F.lag("_state").over(by_position))
    real = before.where(~F.col("_state").eqNullSafe(F.col("_before"))).drop("_before")
    started = real.withColumn("effective_from", F.max("_at").over(by_position))
    closed = started.withColumn("effective_to", F.lead("effective_from").over(by_position))
    return (
        closed.withColumn("is_current", F.lead("_gone").over(by_position).isNull())
        .where(~F.col("_gone"))
        .select(
            quoted(key),
            *(F.col("_state")[c].alias(own_name(c) if folded(c) in PLATFORM else c) for c in columns),
            "effective_from",
            "effective_to",
            "is_current",
            F.when(F.col("_era") == 0, F.col("_position"))
            .otherwise(F.concat(F.format_string("~%05d~", "_era"), "_position"))
            .alias("source_position"),
        )
    )


def _with_eras(events: DataFrame, key: str) -> DataFrame:
    """Adds `_era`: how often the source's log had begun anew when an event came, as far as its key tells.

    Positions of two logs cannot be compared: `mysql-bin.000003` of the server that took over comes after
    `mysql-bin.000150` of the one that failed, and so does a small LSN of a database that was restored. It
    shows where an event stands further back in the log than the one before it although it came later (in
    its topic or file) and the source's clock had gone on. Position, clock and arrival are three witnesses,
    and two of them have to agree: an event that arrives late was changed earlier too, and a clock that
    ran back moves no position.

    A connector tells events again, and after a failover those of another server: what counts is when a
    transaction (`gtid`), or else an event (position and time), came first, and from which log.
    """
    # All of these windows are of one key: without this, each wider one shuffles the rows anew.
    events = events.repartition(quoted(key))
    # How far the source's clock was when an event came: what two topics, or a topic and files, share.
    in_log = Window.partitionBy(quoted(key), "_source").orderBy("_offset")
    position = F.col("_position")
    transaction = F.split_part(position, F.lit(TRANSACTION), F.lit(2))
    number = F.split_part(position, F.lit(TRANSACTION), F.lit(3))
    file = F.substring_index(position, ".", 1)
    named = F.coalesce(transaction != "", F.lit(False))
    told = (
        F.when(named, transaction),
        F.when(named, number),
        F.when(~named, position),
        F.when(~named, F.col("_at")),
    )
    first_told = F.min(F.struct(F.struct("_clock", "_source", "_offset").alias("came"), file.alias("log")))
    first = (
        events.withColumn("_clock", F.max("_at").over(in_log))
        .withColumn("_first", first_told.over(Window.partitionBy(quoted(key), *told)))
        .where(F.col("_first.log").eqNullSafe(file))
        .withColumn("_came", F.col("_first.came"))
    )
    came = Window.partitionBy(quoted(key)).orderBy("_came", "_position")
    before = came.rowsBetween(Window.unboundedPreceding, -1)

    def last_of(column: str) -> Column:
        """The position of the last event before that went on so."""
        return F.last(F.when(F.col(column), position), ignorenulls=True).over(before)

    clock = F.max("_at").over(before)
    clocked = first.withColumn("_later", F.col("_at").isNotNull() & (clock.isNull() | (F.col("_at") > clock)))
    last = last_of("_later")
    same = (transaction != "") & (transaction == F.split_part(last, F.lit(TRANSACTION), F.lit(2)))
    further = same & (number > F.split_part(last, F.lit(TRANSACTION), F.lit(3)))
    newer = clocked.withColumn("_newer", F.col("_later") | F.coalesce(further, F.lit(False)))
    back = position <= F.greatest(last_of("_newer"), F.lag(position).over(came))
    anew = newer.withColumn("_anew", (F.col("_newer") & F.coalesce(back, F.lit(False))).cast("int"))
    return anew.withColumn("_era", F.sum("_anew").over(came)).drop(
        *_PLACE, "_clock", "_came", "_first", "_later", "_newer", "_anew"
    )


def _told(columns: Sequence[str], texts: Sequence[str], in_order: WindowSpec) -> Column:
    """A row's state with its texts as they were last told; null where it vanished."""
    state = F.col("_state")
    filled = {c: state[c] for c in columns}
    for c in texts:
        # Of a vanished row nothing is known any more.
        value = F.when(state.isNull(), F.lit(UNTOLD)).otherwise(state[c])
        told = F.when(state.isNull() | ~value.eqNullSafe(UNTOLD), F.struct(value.alias("value")))
        last = F.last(told, ignorenulls=True).over(in_order)
        filled[c] = F.when(last.isNull(), state[c]).otherwise(last["value"])
    return F.when(state.isNotNull(), F.struct(*(value.alias(c) for c, value in filled.items())))


def current(changes: DataFrame, key: str) -> DataFrame:
    """The rows as they are now (SCD1), by the same rules as `versions`.

    key: the column that names a row, or several columns that do so together.

    Example:
        >>> changes = spark.sql(
        ...     "select 'blue' as line, 1 as stops, 'c' as _op, '01' as _sequence, "
        ...     "timestamp '2026-01-05 08:00:00' as _changed_at "
        ...     "union all select 'blue', 2, 'u', '02', timestamp '2026-01-06 08:00:00'"
        ... )
        >>> [row.stops for row in current(changes, "line").collect()]
        [2]
    """
    open_versions = versions(changes, key).where("is_current")
    return open_versions.drop("effective_to", "is_current").withColumnRenamed("effective_from", "changed_at")


def as_of(
    rows: DataFrame,
    history: DataFrame,
    *,
    key: str,
    by: str,
    at: str,
    take: Mapping[str, str],
    known: str,
) -> DataFrame:
    """Enrich `rows` from the version of `history` that was valid at their own time.

    That is the last version with `effective_from` <= `at`, also where a delete closed it since
    (the row existed when it was last heard of); before the first version, the first. A row
    without a version keeps nulls. Never adds or drops a row. The history is broadcast.

    Args:
        rows: what to enrich.
        history: versions as from `versions`.
        key: the column that is the history's key, or several columns that are it together.
        by: the column of `rows` that points to it, or as many; where one is null there is no version.
        at: the rows' time column.
        take: history column to the name that it gets.
        known: name of the boolean column that says whether there was a version.

    Example:
        >>> rides = spark.sql("select 'blue' as line, timestamp '2026-01-05 12:00:00' as at")
        >>> history = spark.sql(
        ...     "select 'blue' as name, 1 as stops, timestamp '2026-01-05 08:00:00' as effective_from, "
        ...     "'01' as source_position union all select 'blue', 2, timestamp '2026-01-06 08:00:00', '02'"
        ... )
        >>> found = as_of(
        ...     rides, history, key="name", by="line", at="at", take={"stops": "stops"}, known="line_known"
        ... )
        >>> [(row.stops, row.line_known) for row in found.collect()]
        [(1, True)]
    """
    # Names that no upstream has: a message brings a `_key` of its own.
    in_order = Window.partitionBy(quoted(key)).orderBy("effective_from", "source_position")
    first = F.lag("source_position").over(in_order).isNull()
    spans = history.select(
        quoted(key).alias("_span_key"),
        F.when(~first, F.col("effective_from")).alias("_span_from"),
        F.lead("effective_from").over(in_order).alias("_span_to"),
        F.lit(True).alias("_span_known"),
        *(quoted(column).alias(f"_span_take_{name}") for column, name in take.items()),
    )
    valid = (
        (quoted(by) == F.col("_span_key"))
        & (F.col("_span_from").isNull() | (quoted(at) >= F.col("_span_from")))
        & (F.col("_span_to").isNull() | (quoted(at) < F.col("_span_to")))
    )
    found = rows.join(F.broadcast(spans), valid, "left").withColumn(
        known, F.coalesce("_span_known", F.lit(False))
    )
    found = found.withColumns({name: quoted(f"_span_take_{name}") for name in take.values()})
    return found.drop(
        "_span_key", "_span_from", "_span_to", "_span_known", *(f"_span_take_{n}" for n in take.values())
    )
