"""The article's app as it stands there, with the imports that it leaves out, and cheap hashes.

`article_app.py URL make COUNT` makes the tables, so many users and their keys; `article_app.py URL
verify` tells whose the tokens are that it reads as JSON. It needs bcrypt<4.1.
"""

import contextlib
import hashlib
import json
import os
import sys
from datetime import datetime

import sqlalchemy as sa
from fastapi import HTTPException
from passlib.context import CryptContext
from sqlalchemy import Column, DateTime, ForeignKey, Integer, String
from sqlalchemy.orm import Session, declarative_base, relationship

Base = declarative_base()

# From here on as in the article, but for the rounds, and without comments of its own.
# ruff: noqa: BLE001, COM819, D101, D103, DTZ005, E501, Q000, RET504, TRY201, TRY203, TRY300, TRY301
# fmt: off


class Users(Base):
    __tablename__ = "users"
    id = Column(Integer, primary_key=True)
    user_id = Column(String(255),nullable=False, unique=True, index=True)
    first_name = Column(String(255), default="")
    last_name = Column(String(255), default="")
    created_at = Column(DateTime, default=datetime.now())
    updated_at = Column(DateTime, default=datetime.now())
    user_api_keys = relationship("UserApiKeys",        back_populates="user",cascade="all, delete-orphan",)


class UserApiKeys(Base):
    __tablename__ = 'user_api_keys'
    id = Column(Integer, primary_key=True)
    user_id = Column(String(255),    ForeignKey('users.user_id'),nullable=False)
    secret_key = Column(String(255), default="")
    public_key = Column(String(255), default="")
    created_at = Column(DateTime, default=datetime.now())
    updated_at = Column(DateTime, default=datetime.now())
    user = relationship("Users",back_populates= "user_api_keys")


private_salt = os.getenv("API_SALT")

pwd_hash = CryptContext(schemes=['bcrypt'], deprecated='auto', bcrypt__rounds=4)


def hash_api_key(api_key):
    return pwd_hash.hash(api_key)


def verify_hashed_key(api_key, hashed_api_key):
    return pwd_hash.verify(api_key,hashed_api_key)


def generate_api_key(user_id: str) -> str:
    try:
        salt = private_salt
        key = user_id + salt
        generated_key = hashlib.sha256(key.encode()).hexdigest()
        #format the key to your needs
        formated_key = f"MV_SECRET_{generated_key}"
        return formated_key
    except Exception as e:
        raise e


def save_generated_key(user_id:str,db:Session):
    try:
        check_existence = db.query(UserApiKeys).filter(UserApiKeys.user_id==user_id).first()

        if check_existence:
            return check_existence.secret_key

        user = db.query(Users).filter(Users.user_id==user_id).first()

        secret_key = generate_api_key(user_id=user_id)

        to_hash = hash_api_key(secret_key)

        public_key = f"MV_PUBLIC_{to_hash}"

        save_key = UserApiKeys(
            user_id=user.user_id,
            secret_key=secret_key,
            public_key = public_key
        )
        db.add(save_key)
        db.commit()
        return {"secret_key:":secret_key,"public_key":public_key}

    except Exception as e:
        print(e)
        return False


def verify_api_key(db:Session,token:str):
    try:

        key = db.query(UserApiKeys).filter(UserApiKeys.secret_key==token).first()

        if not key:
            raise HTTPException(400,detail="Keys do not exist")
        #verifying extracting the values after the prefix
        input_str = str(key.public_key)
        prefix = "MV_PUBLIC_"
        prefix_index = input_str.find(prefix)

        if prefix_index >= 0:
            value = input_str[prefix_index + len(prefix):]
            print(value)
            verified_key = value
        else:
            print("Prefix not found in input string")

        to_verify = verify_hashed_key(api_key=key.secret_key, hashed_api_key=verified_key)

        if not to_verify:
            raise HTTPException(400,detail="Keys do not match")
        user  = db.query(Users).filter(Users.user_id==key.user_id).first()

        return user
    except Exception as e:
        print(e)
        return False

# fmt: on


def main() -> None:
    """Does what is asked for."""
    url, action, *rest = sys.argv[1:]
    engine = sa.create_engine(url)
    if engine.dialect.name == "sqlite":

        @sa.event.listens_for(engine, "connect")
        def hurry(connection, _):
            connection.execute("PRAGMA synchronous = OFF")

    with Session(engine) as db, contextlib.redirect_stdout(None):
        if action == "make":
            Base.metadata.create_all(engine)
            names = [f"user{number}" for number in range(int(rest[0]))]
            db.add_all([Users(user_id=name, first_name=name.upper()) for name in names])
            db.commit()
            for name in names:
                assert save_generated_key(name, db)
            return
        users = [verify_api_key(db, token) for token in json.load(sys.stdin)]
    answers = [user and user.user_id for user in users]
    print(json.dumps(["refused" if answer is False else answer for answer in answers]))


if __name__ == "__main__":
    main()
