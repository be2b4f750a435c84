"""The article's app, as it stands there, with what it leaves out: imports and `get_db`.

`python article.py` makes the tables and a user, and prints the key.
"""

import hashlib
import os
from datetime import datetime

from fastapi import Depends, FastAPI, Header, HTTPException
from passlib.context import CryptContext
from sqlalchemy import Column, DateTime, ForeignKey, Integer, String, create_engine
from sqlalchemy.orm import Session, declarative_base, relationship, sessionmaker

ITEMS = {"items": ["one", "two", "three"]}
Base = declarative_base()
engine = create_engine(os.environ["BENCH_DATABASE"].replace("+aiosqlite", ""))
SessionLocal = sessionmaker(engine)


class Users(Base):
    """A user."""

    __tablename__ = "users"
    id = Column(Integer, primary_key=True)
    user_id = Column(String(255), nullable=False, unique=True, index=True)
    first_name = Column(String(255), default="")
    last_name = Column(String(255), default="")
    created_at = Column(DateTime, default=datetime.now())  # noqa: DTZ005 - as in the article
    updated_at = Column(DateTime, default=datetime.now())  # noqa: DTZ005
    user_api_keys = relationship("UserApiKeys", back_populates="user", cascade="all, delete-orphan")


class UserApiKeys(Base):
    """A key of a user."""

    __tablename__ = "user_api_keys"
    id = Column(Integer, primary_key=True)
    user_id = Column(String(255), ForeignKey("users.user_id"), nullable=False)
    secret_key = Column(String(255), default="")
    public_key = Column(String(255), default="")
    created_at = Column(DateTime, default=datetime.now())  # noqa: DTZ005
    updated_at = Column(DateTime, default=datetime.now())  # noqa: DTZ005
    user = relationship("Users", back_populates="user_api_keys")


private_salt = os.getenv("API_SALT", "salt")
pwd_hash = CryptContext(schemes=["bcrypt"], deprecated="auto")


def get_db():
    """A session for each request."""
    db = SessionLocal()
    try:
        yield db
    finally:
        db.close()


def hash_api_key(api_key):
    """As in the article."""
    return pwd_hash.hash(api_key)


def verify_hashed_key(api_key, hashed_api_key):
    """As in the article."""
    return pwd_hash.verify(api_key, hashed_api_key)


def generate_api_key(user_id: str) -> str:
    """As in the article."""
    generated_key = hashlib.sha256((user_id + private_salt).encode()).hexdigest()
    return f"MV_SECRET_{generated_key}"


def save_generated_key(user_id: str, db: Session):
    """As in the article."""
    user = db.query(Users).filter(Users.user_id == user_id).first()
    secret_key = generate_api_key(user_id=user_id)
    public_key = f"MV_PUBLIC_{hash_api_key(secret_key)}"
    db.add(UserApiKeys(user_id=user.user_id, secret_key=secret_key, public_key=public_key))
    db.commit()
    return {"secret_key": secret_key, "public_key": public_key}


def verify_api_key(db: Session, token: str):
    """As in the article."""
    try:
        key = db.query(UserApiKeys).filter(UserApiKeys.secret_key == token).first()
        if not key:
            raise HTTPException(400, detail="Keys do not exist")  # noqa: TRY301
        prefix = "MV_PUBLIC_"
        input_str = str(key.public_key)
        verified_key = input_str[input_str.find(prefix) + len(prefix) :]
        print(verified_key)
        if not verify_hashed_key(api_key=key.secret_key, hashed_api_key=verified_key):
            raise HTTPException(400, detail="Keys do not match")  # noqa: TRY301
        return db.query(Users).filter(Users.user_id == key.user_id).first()
    except Exception as e:  # noqa: BLE001
        print(e)
        return False


def api_key_header(authorization: str = Header(...)):
    """As in the article."""
    if not authorization.startswith("Bearer "):
        raise HTTPException(status_code=401, detail="Invalid authorization header")
    return authorization.split(" ")[1]


app = FastAPI()


@app.get("/open")
async def open_route():
    """Whoever asks."""
    return ITEMS


@app.get("/key")
async def get_cureent_user(
    authorization: str = Depends(api_key_header),  # noqa: FAST002
    db: Session = Depends(get_db),  # noqa: B008, FAST002
):
    """As in the article, but for what is answered."""
    if verify_api_key(db=db, token=authorization):
        return ITEMS
    raise HTTPException(status_code=401, detail="Not Authorized")


if __name__ == "__main__":
    Base.metadata.create_all(engine)
    with SessionLocal() as session:
        session.add(Users(user_id="u1"))
        session.commit()
        print(save_generated_key("u1", session)["secret_key"])
