"""Databases of the article's app: made by its own code, and with rows that nobody wants to find."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import bcrypt
import sqlalchemy as sa

from keylatch import mint
from keylatch._native import SecretRing

PROGRAM = Path(__file__).with_name("article_app.py")
SALT = "salt"
# Of another format than the article's, which its app takes all the same.
CHOSEN = "chosen-by-hand"

keys = sa.table(
    "user_api_keys",
    *(sa.column(name) for name in ("id", "user_id", "secret_key", "public_key", "created_at")),
)


def synchronous(url: str) -> str:
    """The same database for the article's app, which knows no asynchronous driver."""
    drivers = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "mariadb": "mariadb+pymysql"}
    made = sa.make_url(url)
    made = made.set(drivername=drivers[made.get_backend_name()])
    return made.render_as_string(hide_password=False)


def make(url: str, count: int) -> None:
    """Has the article's code make its tables, so many users, and a key for each."""
    _run(url, "make", str(count))


def whose(url: str, tokens: list[str]) -> list[str | None]:
    """Whom the article's app takes tokens for: a user id, None, or "refused"."""
    answers: list[str | None] = json.loads(_run(url, "verify", given=json.dumps(tokens)))
    return answers


def _run(url: str, *arguments: str, given: str = "") -> str:
    command = [sys.executable, "-W", "ignore", str(PROGRAM), synchronous(url), *arguments]
    environment = os.environ | {"API_SALT": SALT}
    done = subprocess.run(
        command, env=environment, input=given, capture_output=True, text=True, check=True
    )
    return done.stdout


def rows(url: str) -> list[Any]:
    """Every row, as it is now."""
    engine = sa.create_engine(synchronous(url), poolclass=sa.NullPool)
    with engine.connect() as connection:
        return list(connection.execute(sa.select(keys).order_by(keys.c.id)))


def execute(url: str, *statements: str) -> None:
    """Runs statements of the test's own."""
    engine = sa.create_engine(synchronous(url), poolclass=sa.NullPool)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))


def add_odd_rows(url: str, ring: str, prefix: str) -> dict[int, str]:
    """Adds rows that become no key, among some that do. Returns why not, by row."""
    engine = sa.create_engine(synchronous(url), poolclass=sa.NullPool)
    with engine.begin() as connection:
        _allow_strangers(connection)
        first = connection.execute(sa.select(keys).order_by(keys.c.id).limit(1)).one()
        good, written = first.public_key, [("user2", CHOSEN, hashed(CHOSEN))]
        own = mint(prefix, SecretRing(ring))
        odd: list[tuple[str, str, Any, str | None]] = [
            ("empty", first.user_id, "", good),
            ("empty", first.user_id, None, good),
            ("duplicate", "user1", first.secret_key, good),
            ("duplicate", first.user_id, first.secret_key, ""),
            ("no_user", "nobody", "MV_SECRET_of_nobody", hashed("MV_SECRET_of_nobody")),
            ("no_user", "", "MV_SECRET_of_no_name", hashed("MV_SECRET_of_no_name")),
            ("duplicate", "user1", "MV_SECRET_of_nobody", good),
            ("public_key", "user1", "MV_SECRET_without_hash", ""),
            ("public_key", "user1", "MV_SECRET_with_other_hash", "MV_PUBLIC_$argon2id$v=19$"),
            ("public_key", "user1", "MV_SECRET_null", None),
            ("format", "user1", "seven77", hashed("seven77")),
            ("format", "user1", "MV SECRET with blanks", hashed("MV SECRET with blanks")),
            ("format", "user1", "MV_SECRET_\u00e9\u00e9\u00e9", good),
            ("format", "user1", own, hashed(own)),
            ("format", "user1", own[:-1] + ("0" if own[-1] != "0" else "1"), good),
        ]
        if connection.dialect.name == "sqlite":
            odd += [
                ("format", "user1", b"MV_SECRET_\xff\xfe\xfd", good),
                ("format", "user1", "x" * 513, good),
                ("user_id", "a\nb", "MV_SECRET_of_two_lines", hashed("MV_SECRET_of_two_lines")),
            ]
            connection.execute(
                sa.text("INSERT INTO users (id, user_id) VALUES (-1, 'a' || char(10) || 'b')")
            )
        written += [each[1:] for each in odd]
        last = connection.scalar(sa.select(sa.func.max(keys.c.id)))
        for number, (user_id, secret, public_key) in enumerate(written, last + 1):
            values = {"id": number, "user_id": user_id, "secret_key": secret}
            connection.execute(sa.insert(keys), values | {"public_key": public_key})
        return {number: each[0] for number, each in enumerate(odd, last + 2)}


def hashed(secret: str) -> str:
    """What the article's app would have stored beside a secret."""
    return "MV_PUBLIC_" + bcrypt.hashpw(secret.encode()[:72], bcrypt.gensalt(4)).decode()


def _allow_strangers(connection: sa.Connection) -> None:
    """Lets rows be without a user, as they are where somebody has turned the constraint off."""
    if connection.dialect.name == "sqlite":
        return  # which does not look
    (constraint,) = sa.inspect(connection).get_foreign_keys("user_api_keys")
    kind = "CONSTRAINT" if connection.dialect.name == "postgresql" else "FOREIGN KEY"
    connection.execute(sa.text(f"ALTER TABLE user_api_keys DROP {kind} {constraint['name']}"))
