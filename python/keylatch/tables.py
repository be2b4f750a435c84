"""The tables of keys and of their audit trail, for SQLAlchemy."""

from datetime import UTC, datetime
from typing import Final

import sqlalchemy as sa

metadata = sa.MetaData()


class UTCDateTime(sa.types.TypeDecorator[datetime]):
    """An aware moment in UTC with microseconds, also on databases that keep no time zone."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """To the database: UTC."""
        if value is None:
            return None
        if value.utcoffset() is None:
            raise ValueError("a datetime must be aware")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """From the database: aware again."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


api_keys: Final = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.String(16), primary_key=True),
    sa.Column("prefix", sa.String(24), nullable=False),
    sa.Column("hash", sa.String(255), nullable=False),
    sa.Column("name", sa.String(255), nullable=False),
    sa.Column("owner", sa.String(255), index=True),
    sa.Column("scopes", sa.JSON, nullable=False),
    sa.Column("metadata", sa.JSON, nullable=False),
    sa.Column("created_at", UTCDateTime, nullable=False),
    sa.Column("updated_at", UTCDateTime, nullable=False, index=True),
    sa.Column("expires_at", UTCDateTime),
    sa.Column("revoked_at", UTCDateTime),
    sa.Column("revoked_reason", sa.String(255)),
    sa.Column("last_used_at", UTCDateTime),
    sa.Column("use_count", sa.BigInteger, nullable=False, default=0),
    sa.Column("successor", sa.String(16)),
)

api_key_events: Final = sa.Table(
    "api_key_events",
    metadata,
    # SQLite counts by itself only in a column of the exact type INTEGER.
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("key_id", sa.String(16), nullable=False, index=True),
    sa.Column("at", UTCDateTime, nullable=False),
    sa.Column("action", sa.String(16), nullable=False),
    sa.Column("actor", sa.String(255)),
    sa.Column("details", sa.JSON, nullable=False),
)
