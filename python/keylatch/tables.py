"""The tables of keys and of their audit trail, for SQLAlchemy, and the revisions they went through.

Texts are compared whole, blanks and case included, and moments keep microseconds and UTC, on
SQLite, PostgreSQL and MariaDB alike.
"""

from datetime import UTC, datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

metadata: Final = sa.MetaData()

# Of MariaDB's engines, one that has transactions, whatever the server's default is.
_ENGINE: Final[dict[str, Any]] = {"mysql_engine": "InnoDB", "mariadb_engine": "InnoDB"}

# Of the migrations, the oldest first. The last one makes what stands below.
REVISIONS: Final = ("0001", "0002")


class UTCDateTime(sa.types.TypeDecorator[datetime]):
    """An aware moment in UTC with microseconds, also on databases that keep no time zone."""

    # MariaDB drops what is below a second, unless the type says otherwise.
    impl: sa.types.TypeEngine[Any] = sa.DateTime(timezone=True).with_variant(
        mysql.DATETIME(fsp=6), "mysql", "mariadb"
    )
    cache_ok: bool | None = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """To the database: UTC."""
        if value is None:
            return None
        if value.utcoffset() is None:
            raise ValueError("a datetime must be aware")
        moment = value.astimezone(UTC)
        return moment if dialect.name == "postgresql" else moment.replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """From the database: aware again."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def text(length: int) -> sa.String:
    """The type of a text that is compared whole: by its bytes, never padded."""
    return (
        sa.String(length)
        .with_variant(
            mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_nopad_bin"),
            "mysql",
            "mariadb",
        )
        .with_variant(sa.String(length, collation="C"), "postgresql")
    )


api_keys: Final = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", text(16), primary_key=True),
    sa.Column("prefix", text(24), nullable=False),
    sa.Column("hash", text(255), nullable=False),
    sa.Column("name", text(255), nullable=False),
    sa.Column("owner", text(255)),
    sa.Column("scopes", sa.JSON, nullable=False),
    sa.Column("metadata", sa.JSON, nullable=False),
    sa.Column("created_at", UTCDateTime, nullable=False),
    sa.Column("updated_at", UTCDateTime, nullable=False),
    sa.Column("expires_at", UTCDateTime),
    sa.Column("revoked_at", UTCDateTime),
    sa.Column("revoked_reason", text(255)),
    sa.Column("last_used_at", UTCDateTime),
    sa.Column("use_count", sa.BigInteger, nullable=False, default=0),
    sa.Column("successor", text(16)),
    # One for each order that keys are listed in.
    sa.Index("ix_api_keys_created_at", "created_at", "id"),
    sa.Index("ix_api_keys_owner", "owner", "created_at", "id"),
    sa.Index("ix_api_keys_prefix", "prefix", "created_at", "id"),
    sa.Index("ix_api_keys_name", "name", "created_at", "id"),
    sa.Index("ix_api_keys_expires_at", "expires_at", "id"),
    sa.Index("ix_api_keys_revoked_at", "revoked_at", "id"),
    **_ENGINE,
)

api_key_events: Final = sa.Table(
    "api_key_events",
    metadata,
    # SQLite counts by itself only in a column of the exact type INTEGER.
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("key_id", text(16), nullable=False),
    sa.Column("at", UTCDateTime, nullable=False),
    sa.Column("action", text(16), nullable=False),
    sa.Column("actor", text(255)),
    sa.Column("details", sa.JSON, nullable=False),
    sa.Index("ix_api_key_events_key_id", "key_id", "id"),
    **_ENGINE,
)

# Alembic's own, under a name of ours, so that the host's migrations and ours never meet.
keylatch_version: Final = sa.Table(
    "keylatch_version",
    metadata,
    sa.Column("version_num", sa.String(32), primary_key=True),
    **_ENGINE,
)
