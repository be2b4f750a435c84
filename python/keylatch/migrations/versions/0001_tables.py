"""The tables of the first version, which knew no revisions and made them in SQLite only.

They are written out here, not taken from ``keylatch.tables``, which moves on.
"""

import sqlalchemy as sa
from alembic.operations import Operations
from sqlalchemy.dialects import mysql

from keylatch.migrations.steps import add_index, create_table

revision = "0001"
down_revision = None


def upgrade(operations: Operations) -> None:
    """Makes what is missing of them."""
    moment = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
    number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    create_table(
        operations,
        "api_keys",
        sa.Column("id", _text(16), primary_key=True),
        sa.Column("prefix", _text(24), nullable=False),
        sa.Column("hash", _text(255), nullable=False),
        sa.Column("name", _text(255), nullable=False),
        sa.Column("owner", _text(255)),
        sa.Column("scopes", sa.JSON, nullable=False),
        sa.Column("metadata", sa.JSON, nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("updated_at", moment, nullable=False),
        sa.Column("expires_at", moment),
        sa.Column("revoked_at", moment),
        sa.Column("revoked_reason", _text(255)),
        sa.Column("last_used_at", moment),
        sa.Column("use_count", sa.BigInteger, nullable=False),
        sa.Column("successor", _text(16)),
    )
    create_table(
        operations,
        "api_key_events",
        sa.Column("id", number, primary_key=True),
        sa.Column("key_id", _text(16), nullable=False),
        sa.Column("at", moment, nullable=False),
        sa.Column("action", _text(16), nullable=False),
        sa.Column("actor", _text(255)),
        sa.Column("details", sa.JSON, nullable=False),
    )
    add_index(operations, "ix_api_keys_owner", "api_keys", ["owner"])
    add_index(operations, "ix_api_keys_updated_at", "api_keys", ["updated_at"])
    add_index(operations, "ix_api_key_events_key_id", "api_key_events", ["key_id"])


def _text(length: int) -> sa.String:
    charset, collation = "utf8mb4", "utf8mb4_nopad_bin"
    return (
        sa.String(length)
        .with_variant(
            mysql.VARCHAR(length, charset=charset, collation=collation), "mysql", "mariadb"
        )
        .with_variant(sa.String(length, collation="C"), "postgresql")
    )
