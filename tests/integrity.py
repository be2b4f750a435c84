"""What holds between keys and their audit trail, whatever happened. Reads past keylatch's code."""

from collections import Counter, defaultdict

import sqlalchemy as sa

from keylatch.tables import api_key_events, api_keys


def violations(connection: sa.Connection) -> list[str]:
    """Says what does not fit together in the tables; nothing, if all does."""
    keys = {row.id: row for row in connection.execute(sa.select(api_keys))}
    trails = defaultdict(list)
    for event in connection.execute(sa.select(api_key_events).order_by(api_key_events.c.id)):
        trails[event.key_id].append(event)
    found = [f"events of no key: {trails[key_id]}" for key_id in trails.keys() - keys.keys()]
    for key_id, key in keys.items():
        count = Counter(event.action for event in trails[key_id])
        expected = {
            "created": 1,
            "rotated": int(key.successor is not None),
            "revoked": int(key.revoked_at is not None),
        }
        if any(count[action] != times for action, times in expected.items()):
            found.append(f"{key} with the events {count}")
        if key.successor is not None and key.successor not in keys:
            found.append(f"a successor that is not there: {key}")
        if key.updated_at != max((event.at for event in trails[key_id]), default=None):
            found.append(f"changed at another time than that of its last event: {key}")
        for event in trails[key_id]:
            if event.action == "rotated" and event.details["successor"] != key.successor:
                found.append(f"rotated into another key than its successor: {key}")
            predecessor = event.details.get("predecessor")
            if predecessor is not None and keys[predecessor].successor != key_id:
                found.append(f"a successor that its predecessor does not name: {key}")
    return found
