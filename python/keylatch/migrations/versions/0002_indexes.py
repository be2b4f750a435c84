"""An index for each order that keys are listed in.

Those of the first version are replaced by longer ones of the same names. That of moments of change
goes: changes are followed by the numbers of the audit trail.
"""

from alembic.operations import Operations

from keylatch.migrations.steps import drop_index, replace_index

revision = "0002"
down_revision = "0001"


def upgrade(operations: Operations) -> None:
    """Makes what is missing of them."""
    for name, columns in (
        ("ix_api_keys_created_at", ["created_at", "id"]),
        ("ix_api_keys_owner", ["owner", "created_at", "id"]),
        ("ix_api_keys_prefix", ["prefix", "created_at", "id"]),
        ("ix_api_keys_name", ["name", "created_at", "id"]),
        ("ix_api_keys_expires_at", ["expires_at", "id"]),
        ("ix_api_keys_revoked_at", ["revoked_at", "id"]),
    ):
        replace_index(operations, name, "api_keys", columns)
    replace_index(operations, "ix_api_key_events_key_id", "api_key_events", ["key_id", "id"])
    drop_index(operations, "ix_api_keys_updated_at", "api_keys")
