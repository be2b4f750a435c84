"""Which paths stay open in an application that is otherwise protected. Knows nothing of keys.

Frameworks read odd paths in different ways, so that what one takes for a public path leads
another one elsewhere. Whatever is odd is protected here.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from keylatch.errors import ConfigurationError

# Segments of what RFC 3986, section 3.3, has in a path unescaped; but none that is empty, "." or
# "..", and no ";", which some servers cut a segment off at.
_PLAIN: Final = re.compile(r"/|(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._~!$&'()+,=:@-]+)+/?")
_BELOW: Final = "/*"
# Starlette's kinds of parameters that hold no slash. An application may have others of its own.
_OF_A_SEGMENT: Final = (None, ":str", ":int", ":float", ":uuid")


class OpenPaths:
    """Paths that need no key.

    Args:
        paths: Each a whole path such as ``/health``, or all that lies below one: ``/public/*``.

    Raises:
        ConfigurationError: One is neither, or would open everything.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        if isinstance(paths, str):
            raise ConfigurationError('exclude is a list of paths, such as ["/health"], not one')
        listed = list(paths)
        for path in listed:
            _check(path)
        self._whole = frozenset(path for path in listed if not path.endswith(_BELOW))
        self._below = tuple(path[:-1] for path in listed if path.endswith(_BELOW))

    def __bool__(self) -> bool:
        return bool(self._whole or self._below)

    def has(self, scope: Mapping[str, Any]) -> bool:
        """Whether a request needs no key, as far as its path goes. In doubt it does."""
        try:
            path: str = scope["path"]
            route = _route(path, scope.get("root_path") or "")
            if route is None or not (route in self._whole or route.startswith(self._below)):
                return False
            if not _PLAIN.fullmatch(route):
                return False
            # Escapes may be read twice, and a framework may have rewritten the path: of what
            # Litestar mounts at /admin, only /x is left of /admin/x.
            raw = scope.get("raw_path")
            return raw is None or raw in (path.encode(), route.encode())
        finally:
            del scope  # a traceback with locals must not show the token

    def may_have(self, template: str) -> bool:
        """Whether a path of a route may be one of these. In doubt it may.

        Args:
            template: As Starlette has it: ``/items/{id}`` or ``/files/{name:path}``; ``/*`` at the
                end stands for anything below.
        """
        start, parameter, _ = template.removesuffix("*").partition("{")
        if not parameter and not template.endswith(_BELOW):
            return template in self._whole or template.startswith(self._below)
        below = any(start.startswith(each) or each.startswith(start) for each in self._below)
        parts = re.split(r"\{[^{}:]*(:[^{}]*)?\}", template.removesuffix("*"))
        texts, kinds = parts[::2], parts[1::2]
        pattern = re.escape(texts[0])
        for kind, text in zip(kinds, texts[1:], strict=True):
            pattern += ("[^/]+" if kind in _OF_A_SEGMENT else ".*") + re.escape(text)
        if template.endswith(_BELOW):
            pattern += ".*"
        return below or any(re.fullmatch(pattern, path) for path in self._whole)


def _route(path: str, root: str) -> str | None:
    """The path as the application's routes have it; None where frameworks disagree."""
    if not root:
        return path
    if path.startswith(f"{root}/"):
        return path[len(root) :]
    # Starlette takes such a path as it is, behind a proxy that cut the root off; Litestar cuts
    # it off here, wherever it stands.
    return None if root in path else path


def _check(path: str) -> None:
    if not isinstance(path, str):
        raise ConfigurationError(f"a path to exclude must be a str, not {type(path).__name__}")
    whole = path.removesuffix(_BELOW)
    if not _PLAIN.fullmatch(whole) or (whole != path and whole.endswith("/")):
        raise ConfigurationError(
            'a path to exclude is whole, such as "/health", or all that lies below one, such as '
            '"/public/*"; it has no escapes and no empty or dotted segments, and "/*" would '
            "leave nothing protected"
        )
