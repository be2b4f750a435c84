"""What a row of the keys' table is as a record, and back. Knows columns, and sends nothing."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from keylatch.errors import UnavailableError
from keylatch.records import DECOY, APIKey, KeyEvent, KeyRecord
from keylatch.tables import api_keys

FIELDS: Final = tuple(APIKey.__dataclass_fields__)
KEY: Final = sa.select(*(api_keys.c[name] for name in FIELDS))
RECORD: Final = KEY.add_columns(api_keys.c.hash)


def dead(now: datetime) -> sa.ColumnElement[bool]:
    """Whether a row is of a key that opens nothing any more."""
    key = api_keys.c
    expired = sa.and_(key.expires_at.is_not(None), key.expires_at <= now)
    return sa.or_(key.revoked_at.is_not(None), expired)


@contextmanager
def decoding() -> Iterator[None]:
    """Says of a damaged row that it is, and nothing of what stands in it."""
    try:
        yield
    except (TypeError, ValueError) as error:
        # Not chained: the error of a JSON parser carries the whole text.
        raise UnavailableError(
            f"a row of the keys' tables is damaged ({type(error).__name__}): restore it, or "
            "delete it"
        ) from None


def written(new: Sequence[tuple[KeyRecord, KeyEvent]]) -> list[dict[str, Any]]:
    """New keys as rows."""
    return [_row(record) | {"updated_at": event.at} for record, event in new]


def _row(record: KeyRecord) -> dict[str, Any]:
    values: dict[str, Any] = {name: getattr(record.key, name) for name in FIELDS}
    return values | {"hash": record.hash, "scopes": sorted(record.key.scopes)}


def found(rows: sa.MappingResult) -> KeyRecord | None:
    """The one key that was read, if there is one."""
    # No row in a local where its damage is reported: it has the hash.
    row = rows.one_or_none()
    return None if row is None or row["id"] is None else record(row)


def record(row: Mapping[Any, Any]) -> KeyRecord:
    """A key and its hash, of a row of ``RECORD``."""
    return KeyRecord(key(row), row["hash"])


def key(row: Mapping[Any, Any]) -> APIKey:
    """A key, of a row of ``KEY``."""
    values: dict[str, Any] = {name: row[name] for name in FIELDS}
    if not isinstance(values["scopes"], list):
        raise TypeError("scopes are not a list")
    if not isinstance(values["metadata"], dict):
        raise TypeError("metadata is not an object")
    values["scopes"] = frozenset(values["scopes"])
    return APIKey(**values)


@functools.cache
def _decoy_fields(dialect: sa.Dialect) -> Sequence[tuple[str, Callable[[Any], Any] | None, Any]]:
    """What a database has of the decoy, by column, and what SQLAlchemy does to each value."""
    fields = []
    for column in RECORD.selected_columns:
        kind, value = column.type.dialect_impl(dialect), _row(DECOY).get(column.name)
        bind, decode = kind.bind_processor(dialect), kind.result_processor(dialect, None)
        # Without a decoder of SQLAlchemy's the driver has decoded it.
        raw = bind(value) if bind and decode and value is not None else value
        fields.append((str(column.name), decode, raw))
    return fields


def decode_decoy(dialect: sa.Dialect) -> None:
    """Does what decoding a row does, so that to find none does not take less time."""
    fields = _decoy_fields(dialect)
    record({name: raw if decode is None else decode(raw) for name, decode, raw in fields})
