"""What the routes that manage keys take and answer, for Pydantic and the OpenAPI document.

Knows the bounds of a key; no collection of keys.
"""

import re
from datetime import datetime
from typing import Annotated, Any, ClassVar, Final

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from keylatch import bounds
from keylatch.records import Status

# A century; whatever is to live longer has no end.
_MAX_SECONDS: Final = 100 * 365 * 24 * 3600
# RFC 3339, section 5.6. Pydantic alone also takes numbers, and dates without a time.
_MOMENT: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})"
)


def _moment(value: object) -> object:
    if isinstance(value, datetime) or (isinstance(value, str) and _MOMENT.fullmatch(value)):
        return value
    raise ValueError("a moment is written as RFC 3339 has it, such as 2026-01-31T12:00:00Z")


def _text(value: str) -> str:
    return bounds.text(value, "this")


def _prefix(value: str) -> str:
    return value and _text(value)


def _absent() -> Any:
    """The default of what is not null, and may be left out."""
    return None


Moment = Annotated[AwareDatetime, BeforeValidator(_moment)]
Seconds = Annotated[int, Field(strict=True, le=_MAX_SECONDS)]
Text = Annotated[str, Field(min_length=1, max_length=bounds.MAX_TEXT), AfterValidator(_text)]
OfPrefix = Annotated[str, Field(max_length=bounds.MAX_TEXT), AfterValidator(_prefix)]
Scope = Annotated[str, Field(pattern=f"^{bounds.SCOPE.pattern}$", examples=["items:read"])]
Scopes = Annotated[list[Scope], Field(max_length=bounds.MAX_SCOPES)]
Metadata = Annotated[dict[str, Any], AfterValidator(bounds.metadata)]


class _Taken(BaseModel):
    """What is not in the model is an error: nobody shall think that it was heeded."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


class KeyToCreate(_Taken):
    """A key to be made. It ends by itself only if it is given an end, in one way or the other."""

    name: Text = Field(description="What people call it.")
    owner: Text | None = Field(
        None, description="Whom it belongs to: the calling key's owner, or with keys:admin another."
    )
    scopes: Scopes = Field([], description="What it may do: no more than the calling key may.")
    expires_in: Annotated[Seconds, Field(gt=0)] | None = Field(
        None, description="For how many seconds it lives."
    )
    expires_at: Moment | None = Field(None, description="When it ends.")
    metadata: Metadata = Field({}, description="A JSON object of at most 8 KiB and 16 levels.")
    prefix: Text | None = Field(
        None, description="What its token begins with, where the collection has several prefixes."
    )


class KeyEdits(_Taken):
    """What changes of a key. What is left out stays as it is."""

    model_config: ClassVar[ConfigDict] = ConfigDict(json_schema_extra={"minProperties": 1})

    name: Text = Field(default_factory=_absent, description="What people call it.")
    scopes: Scopes = Field(default_factory=_absent, description="All scopes that it has from now.")
    expires_at: Moment | None = Field(
        default_factory=_absent, description="When it ends; null if it does no more by itself."
    )
    metadata: Metadata | None = Field(
        default_factory=_absent, description="A JSON object instead of the old one; null for {}."
    )


class Rotation(_Taken):
    """How a key is replaced. Its successor lives for as long as it was to, if nothing is said."""

    grace: Annotated[Seconds, Field(ge=0)] = Field(
        description="For how many seconds the old key goes on; 0 ends it at once."
    )
    expires_in: Annotated[Seconds, Field(gt=0)] | None = Field(
        None, description="For how many seconds the new key lives."
    )
    expires_at: Moment | None = Field(None, description="When the new key ends.")


class Revocation(_Taken):
    """Why a key is revoked."""

    reason: Text | None = Field(None, description="For the audit trail.")


class KeyQuery(_Taken):
    """Which keys are listed: those that pass everything that is given."""

    owner: Text | None = Field(None, description="Another owner's: needs keys:admin.")
    prefix: OfPrefix | None = Field(
        None, description="Whose tokens begin with this; empty for those that were imported."
    )
    status: Status | None = Field(None, description="In this state only.")
    scope: Scope | None = Field(None, description="That have this scope.")
    name: Text | None = Field(None, description="Of exactly this name.")
    unused_since: Moment | None = Field(
        None, description="Neither used nor made since then, as far as uses were counted."
    )
    expiring_before: Moment | None = Field(
        None, description="That end before then. status=active leaves out those that have ended."
    )
    limit: int = Field(50, ge=1, le=bounds.MAX_PAGE, description="How many at most.")
    cursor: str | None = Field(
        None, max_length=bounds.MAX_TEXT, description="The next_cursor of the page before."
    )


class TrailQuery(_Taken):
    """How much of an audit trail is shown: each change of a key makes it longer."""

    latest: int = Field(
        50, ge=1, le=bounds.MAX_PAGE, description="How many at most: the latest ones."
    )


class _Answered(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(from_attributes=True)


class KeyInfo(_Answered):
    """A key: everything but its token, which nothing keeps."""

    id: str = Field(description="Its public name, which may be logged.")
    prefix: str = Field(description="What its token begins with; empty if it was imported.")
    name: str = Field(description="What people call it.")
    owner: str | None = Field(description="Whom it belongs to.")
    scopes: Annotated[list[str], BeforeValidator(sorted)] = Field(description="What it may do.")
    metadata: dict[str, Any] = Field(description="What the application keeps with it.")
    created_at: datetime = Field(description="When it was made.")
    expires_at: datetime | None = Field(description="When it ends by itself.")
    revoked_at: datetime | None = Field(description="When it was revoked, which is final.")
    last_used_at: datetime | None = Field(description="When last, as far as uses were counted.")
    use_count: int = Field(description="How often, as far as uses were counted.")
    successor: str | None = Field(description="The id of the key that replaced it.")


class KeyWithToken(_Answered):
    """A key just made, and its token, which is shown this once."""

    key: KeyInfo
    token: str = Field(repr=False, description="What a client sends. Nothing keeps it: store it.")


class KeyPage(_Answered):
    """Some keys."""

    items: list[KeyInfo] = Field(description="The keys, the newest first unless a filter says.")
    next_cursor: str | None = Field(description="For the next page; null if this is the last.")


class KeyEventInfo(_Answered):
    """One entry of a key's audit trail."""

    key_id: str = Field(description="The key it happened to.")
    at: datetime = Field(description="When.")
    action: str = Field(
        description="What: created, imported, updated, rotated, revoked or rehashed."
    )
    actor: str | None = Field(description="Who did it: key:<id> where it was done through a key.")
    details: dict[str, Any] = Field(description="More, which depends on the action.")


class Refusal(BaseModel):
    """Why a request was refused."""

    detail: str
