"""API keys for FastAPI, with a native core: names only.

Imports neither FastAPI nor SQLAlchemy: those stand behind ``keylatch.fastapi`` and
``keylatch.sqlalchemy``.
"""

from keylatch._native import Hasher, SecretRing, Token, mint, parse
from keylatch.keys import APIKeys
from keylatch.limits import RateLimit
from keylatch.records import APIKey, Happening, KeyEvent, KeyRequest, NewKey, Page

__all__ = [
    "APIKey",
    "APIKeys",
    "Happening",
    "Hasher",
    "KeyEvent",
    "KeyRequest",
    "NewKey",
    "Page",
    "RateLimit",
    "SecretRing",
    "Token",
    "mint",
    "parse",
]
