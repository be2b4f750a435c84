"""Adds and removes users, for whoever runs the app. No route can do what this does."""

import argparse
import asyncio
import sys

from app import Users, app, engine, keys, lifespan, save_generated_key
from sqlalchemy import create_engine, select, text
from sqlalchemy.exc import IntegrityError, NoResultFound
from sqlalchemy.ext.asyncio import AsyncSession


async def add_user(options: argparse.Namespace, db: AsyncSession) -> None:
    """Adds a user with a first key: both or neither."""
    db.add(
        Users(user_id=options.user_id, first_name=options.first_name, last_name=options.last_name)
    )
    try:
        await db.flush()
    except IntegrityError:
        raise SystemExit(f"There is a user {options.user_id} already: use add-key") from None
    await add_key(options, db)


async def add_key(options: argparse.Namespace, db: AsyncSession) -> None:
    """Gives a user another key, such as one who has lost theirs."""
    new = await save_generated_key(options.user_id, db, name=options.name, actor="manage.py")
    await db.commit()
    # Only the token goes to standard output, so that a shell can take it.
    print(f"Key {new.key.id} for {options.user_id}, shown this once:", file=sys.stderr)
    print(new.token)


async def remove_user(options: argparse.Namespace, db: AsyncSession) -> None:
    """Revokes a user's keys and removes the user: both or neither."""
    user = (await db.scalars(select(Users).where(Users.user_id == options.user_id))).one()
    reason = "its user was removed"
    await keys.revoke_all(owner=user.id, reason=reason, actor="manage.py", connection=db)
    await db.delete(user)
    await db.commit()


async def move_users(options: argparse.Namespace, db: AsyncSession) -> None:
    """Adds the users of the article's own app, whom `keylatch import article` gives their keys."""
    with create_engine(options.url).connect() as old:
        users = old.execute(text("SELECT user_id, first_name, last_name FROM users")).mappings()
        known = set(await db.scalars(select(Users.user_id)))
        new = [Users(id=user["user_id"], **user) for user in users if user["user_id"] not in known]
    db.add_all(new)
    await db.commit()
    print(f"{len(new)} users were added, {len(known)} were there", file=sys.stderr)


def main() -> None:
    """Reads the command and runs it."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    for name, command in {
        "add-user": add_user,
        "add-key": add_key,
        "remove-user": remove_user,
        "move-users": move_users,
    }.items():
        subparser = commands.add_parser(name, help=command.__doc__)
        subparser.add_argument("url" if command is move_users else "user_id")
        subparser.set_defaults(command=command)
        if command in (add_user, add_key):
            subparser.add_argument("--name", default="main", help="what to call the key")
        if command is add_user:
            subparser.add_argument("--first-name", default="")
            subparser.add_argument("--last-name", default="")
    options = parser.parse_args()
    try:
        asyncio.run(run(options))
    except NoResultFound:
        raise SystemExit(f"There is no user {options.user_id}") from None


async def run(options: argparse.Namespace) -> None:
    """Runs a command with the app's database."""
    async with lifespan(app), AsyncSession(engine) as db:
        await options.command(options, db)


if __name__ == "__main__":
    main()
