"""Makes Markdown of our docstrings for the reference: a Griffe extension, named in zensical.toml.

They are written to be read in an editor, with roles and literal blocks as Sphinx has them.
"""

import re
import textwrap
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|data|func|meth):`([\w.]+)`")
_LITERAL = re.compile(r"::\n\n((?: {4}.*\n?|\n)+)")


def markdown(text: str, path: str, names: set[str]) -> str:
    """The docstring with links instead of roles, and fences instead of literal blocks.

    Args:
        text: The docstring, without the indentation of its place.
        path: Where it stands: a module, or a class whose ``names`` a role may mean.
        names: What is found there.
    """

    def link(match: re.Match[str]) -> str:
        name = match[1]
        return f"[`{name}`][{path}.{name}]" if name in names else f"`{name}`"

    def fence(match: re.Match[str]) -> str:
        return f":\n\n```python\n{textwrap.dedent(match[1]).strip()}\n```\n\n"

    return _LITERAL.sub(fence, _ROLE.sub(link, text)).rstrip()


class Docstrings(griffe.Extension):
    """Rewrites each docstring once its package is read."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **_: Any) -> None:
        """Goes through everything that the package defines."""
        self._rewrite(pkg)

    def _rewrite(self, thing: griffe.Object) -> None:
        place = thing if thing.is_class or thing.is_module else thing.parent
        if thing.docstring is not None and place is not None:
            names = set(place.members)
            if thing.is_class and place.parent is not None and not names:
                place, names = place.parent, set(place.parent.members)
            thing.docstring.value = markdown(thing.docstring.value, place.path, names)
        if thing.is_class and "__new__" in thing.members and "__init__" not in thing.members:
            # The classes of the native core document their arguments, but have no __init__.
            thing.members["__init__"] = thing.members["__new__"]
        for member in list(thing.members.values()):
            if isinstance(member, griffe.Object):
                self._rewrite(member)
