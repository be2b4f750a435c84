"""JSON that many requests share, so that none of them changes it for the others.

Knows nothing of keys.
"""

from typing import Any, NoReturn

_TEXT = "this key is shared by all requests that use it: copy its metadata before you change it"


def frozen(value: dict[str, Any]) -> dict[str, Any]:
    """A JSON object that cannot be changed, and is otherwise as it was.

    Copies of it, ``copy.deepcopy`` and pickles among them, are plain ones again.
    """
    return _Dict((name, _frozen(each)) for name, each in value.items()) if value else _EMPTY


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return frozen(value)
    return _List(map(_frozen, value)) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise TypeError(_TEXT)


class _Dict(dict[str, Any]):
    __slots__ = ()
    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __copy__(self) -> dict[str, Any]:
        return dict(self)

    copy = __copy__

    def __deepcopy__(self, memo: object) -> dict[str, Any]:
        plain: dict[str, Any] = _plain(self)
        return plain

    def __reduce_ex__(self, protocol: object) -> Any:
        return _plain, (_plain(self),)


class _List(list[Any]):
    __slots__ = ()
    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse
    append = clear = extend = insert = pop = remove = reverse = sort = _refuse

    def __copy__(self) -> list[Any]:
        return list(self)

    copy = __copy__

    def __deepcopy__(self, memo: object) -> list[Any]:
        plain: list[Any] = _plain(self)
        return plain

    def __reduce_ex__(self, protocol: object) -> Any:
        return _plain, (_plain(self),)


_EMPTY = _Dict()
