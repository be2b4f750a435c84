"""Masks the tokens in a value, wherever they are in it. Knows the native core, and no logging."""

from collections.abc import Callable, Sequence
from types import MemberDescriptorType
from typing import Any, Final

from keylatch._native import mask, mask_bytes

# What stands where something could not be masked. Rather nothing than a token.
WITHHELD: Final = "*** (withheld: it could not be masked)"
# Deeper than this nothing is looked at.
_DEEPEST: Final = 32
# By identity: a metaclass may have its classes equal any other one.
_PLAIN: Final = frozenset(map(id, (int, float, complex, bool, type(None))))
_REBUILT: Final = frozenset(map(id, (dict, list, tuple, set, frozenset, bytearray)))
_UNSEEN: Final = object()


class Masking:
    """Masks values, and what is in them, once. What holds no token stays the object that it is.

    Looks at the texts of an object, and beside them at what JSON is made of: the items of what is
    derived from a dict, list, tuple or str, the fields of dataclasses and of models of pydantic,
    shown by their ``repr`` or not, and what ``__structlog__`` tells. At no other attributes.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._done: dict[int, tuple[Any, Any]] = {}
        self._found = False

    def masked(self, value: Any) -> Any:
        """The value, or what stands for it if a token is in it, or something cannot be seen."""
        masked = self._value(value)
        # What is in itself is rebuilt, token or not.
        return masked if self._found else value

    def _value(self, value: Any) -> Any:
        kind = type(value)
        if kind is str:
            return self._differing(value, mask(value))
        if id(kind) in _PLAIN:
            return value
        if kind is bytes:
            return self._differing(value, mask_bytes(value))
        # Of what is in itself the inner one is withheld; and nothing is looked at twice.
        _, done = self._done.get(id(value), (None, _UNSEEN))
        if done is not _UNSEEN:
            return done
        self._done[id(value)] = (value, WITHHELD)
        self._depth += 1
        try:
            masked = self._inside(value, kind)
        except Exception:  # noqa: BLE001 - whatever an object raises that is looked at
            masked, self._found = WITHHELD, True
        self._depth -= 1
        self._done[id(value)] = (value, masked)
        return masked

    def _inside(self, value: Any, kind: type) -> Any:
        if self._depth > _DEEPEST:
            return self._differing(value, WITHHELD)
        return self._rebuilt(value, kind) if id(kind) in _REBUILT else self._object(value)

    def _differing(self, value: Any, masked: Any) -> Any:
        self._found = self._found or masked is not value
        return masked

    def _rebuilt(self, value: Any, kind: type) -> Any:
        if kind is bytearray:
            plain = bytes(value)
            masked = self._value(plain)
            return value if masked is plain else bytearray(masked)
        if kind is dict:
            items = [part for pair in list(value.items()) for part in pair]
        else:
            items = list(value)
        parts = [self._value(item) for item in items]
        if _same(parts, items):
            return value
        return dict(zip(parts[::2], parts[1::2], strict=True)) if kind is dict else kind(parts)

    def _object(self, value: Any) -> Any:
        kind: Any = type(value)
        alike = kind.__str__ is object.__str__  # which asks for the other one
        texts = [_text(value, repr)] * 2 if alike else [_text(value, each) for each in (str, repr)]
        masked = [self._differing(text, WITHHELD if text is None else mask(text)) for text in texts]
        content = plain = None
        stand: Callable[..., _Shown] = _Shown
        for base, taken, derived in _DERIVED:
            if issubclass(kind, base):
                plain, stand = taken(value), derived
                content = self._value(plain)
        fields = _fields(value) | _told(value)
        shown = {name: self._value(field) for name, field in fields.items()}
        parts, others = [*masked, content, *shown.values()], [*texts, plain, *fields.values()]
        if _same(parts, others):
            return value
        standing = stand() if content is None else stand(content)
        vars(standing).update(shown, _text=masked[0], _representation=masked[1])
        return standing


class _Shown:
    """Stands for an object that holds a token: with its texts and fields, and not of its type."""

    _text: str
    _representation: str

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return self._representation

    def __format__(self, specification: str) -> str:
        return format(self._text, specification)

    def __structlog__(self) -> Any:
        # The renderer takes that text of what has no such method.
        return vars(self).get("_told", self._representation)


class _ShownStr(_Shown, str):  # noqa: SLOT000 - has its texts beside
    pass


# What these stand for may be a key, whatever is in it.
class _ShownDict(_Shown, dict[Any, Any]):
    __hash__ = object.__hash__  # type: ignore[assignment]


class _ShownList(_Shown, list[Any]):
    __hash__ = object.__hash__  # type: ignore[assignment]


class _ShownTuple(_Shown, tuple[Any, ...]):  # noqa: SLOT001 - likewise
    __hash__ = object.__hash__


# What JSON shows of something derived from these is what it holds, whatever its texts say.
_DERIVED: Final[Sequence[tuple[type, Callable[[Any], Any], Any]]] = (
    (str, str.__str__, _ShownStr),
    (dict, dict.copy, _ShownDict),
    (list, list.copy, _ShownList),
    (tuple, lambda value: tuple(tuple.__iter__(value)), _ShownTuple),
)


def _text(value: Any, show: Callable[[Any], str]) -> str | None:
    try:
        return show(value)
    except Exception:  # noqa: BLE001 - what it says may hold a token, too
        return None


def _fields(value: Any) -> dict[str, Any]:
    """What a dataclass or a model holds. Asks no property: that of an ORM would ask a database."""
    kind, fields = type(value), {}
    declared = ("__dataclass_fields__", "__pydantic_fields__")
    names = [name for each in declared for name in getattr(kind, each, ())]
    # Others are not even asked: a proxy may be out of its context.
    found = getattr(value, "__dict__", {}) if names else {}
    for name in names:
        if name in found:
            fields[name] = found[name]
        elif type(getattr(kind, name, None)) is MemberDescriptorType and hasattr(value, name):
            fields[name] = getattr(value, name)
    return fields


def _told(value: Any) -> dict[str, Any]:
    """What an object tells structlog of itself, which its renderer of JSON prefers to any text.

    Only if its type has the method, or the type that a proxy says it is of: another object may do
    whatever it likes when it is asked for something that it does not have.
    """
    kinds = type(value), value.__class__
    if not any(hasattr(kind, "__structlog__") for kind in kinds):
        return {}
    try:
        return {"_told": value.__structlog__()}
    except AttributeError:  # then the renderer takes a text
        return {}


def _same(ones: Sequence[Any], others: Sequence[Any]) -> bool:
    return all(one is other for one, other in zip(ones, others, strict=True))
