"""That ``typing_tests/`` leave no public signature out. Reads them, and runs none.

A function, method or field counts where an ``assert_type`` has it, or has what was made of it. A
class counts where it is named. A member counts where its receiver is known: by an annotation, by
the call of its class, or by an ``assert_type``. So ``page.items`` says nothing of another class
that has ``items``.
"""

import ast
import functools
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from fences import fences, pages

from keylatch.store import Store

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "typing_tests").glob("*.py"))
MODULES = [
    "keylatch",
    "keylatch.asgi",
    "keylatch.errors",
    "keylatch.fastapi",
    "keylatch.masking",
    "keylatch.memory",
    "keylatch.prometheus",
    "keylatch.sqlalchemy",
    "keylatch.testing",
]
# What calls of these return or take, though it is seldom imported.
BESIDES = {
    "keylatch.identifying": ["Identified"],
    "keylatch.importing": ["TokenToImport"],
    "keylatch.kids": ["SecretStatus", "SecretUse"],
    "keylatch.management": ["KeyManagement"],
    "keylatch.records": ["Health"],
}


def public(module: str) -> dict[str, object]:
    """What a module offers: by its list of that, or else what it defines itself."""
    things = vars(import_module(module))
    own = [name for name, thing in things.items() if getattr(thing, "__module__", None) == module]
    names = BESIDES.get(module) or things.get("__all__") or [*own, "metadata"]
    shown = [name for name in names if name in things and not name.startswith("_") and name != "T"]
    return {name: things[name] for name in shown}  # T is a type variable


def place(thing: object, name: str) -> str:
    """A class or function by where it is defined."""
    return f"{getattr(thing, '__module__', None)}.{getattr(thing, '__qualname__', name)}"


def member(kind: type, name: str) -> str | None:
    """A member by the class of keylatch that defines it."""
    if kind.__name__.endswith("Store") and name in vars(Store):
        kind = Store  # stores.py has it checked that they are as it says
    for each in kind.__mro__:
        if name in vars(each) or name in getattr(each, "__annotations__", ()):
            return f"{place(each, '')}.{name}" if each.__module__.startswith("keylatch") else None
    return None


def asked_for(module: str) -> Iterator[str]:
    """Everything that the typing tests have to name, of a module."""
    for name, thing in public(module).items():
        yield place(thing, name)
        if not isinstance(thing, type):
            continue
        for each in {*dir(thing), *getattr(thing, "__annotations__", ())}:
            # The value of what a base class declares is no signature.
            constant = isinstance(getattr(thing, each, None), int | str)
            if (not each.startswith("_") or each == "__call__") and not constant:
                found = member(thing, each)
                if found is not None:
                    yield found


def named(source: str) -> set[str]:
    """Everything of keylatch whose type a file asserts, and the classes that it names."""
    tree = ast.parse(source)
    known = {
        alias.name: vars(import_module(node.module))[alias.name]
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module.startswith("keylatch")
        for alias in node.names
    }
    found = set()
    for function in tree.body:
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            found.update(named_in(function, known))
    return found


def named_in(function: ast.AST, known: dict[str, object]) -> Iterator[str]:
    """The same of a function, with those within."""
    classes = {name: thing for name, thing in known.items() if isinstance(thing, type)}
    variables, origins = {}, {}
    for node in ast.walk(function):
        match node:
            case (
                ast.arg(name, ast.Name(kind))
                | ast.Assign([ast.Name(name)], ast.Call(ast.Name(kind)))
                | ast.Call(ast.Name("assert_type"), [ast.Name(name), ast.Name(kind)])
            ) if kind in classes:
                variables[name] = classes[kind]
        for name, value in made(node):
            origins.setdefault(name, []).append(value)
    for node in ast.walk(function):
        match node:
            case ast.arg(name):
                yield f"keylatch.testing.{name}"  # fixtures are asked for by name
            case ast.Name(name) if name in classes:
                yield place(classes[name], name)
            case ast.Call(ast.Name("assert_type"), [value, _]):
                for each in asserted(value, origins):
                    yield named_by(each, known, classes | variables) or ""


def named_by(node: ast.AST, known: dict[str, object], kinds: dict[str, type]) -> str | None:
    """What of keylatch an expression is, or the call of it."""
    match node:
        case ast.Name(name) if name in known:
            return place(known[name], name)
        case ast.Attribute(ast.Name(name) | ast.Call(ast.Name(name)), attribute) if name in kinds:
            return member(kinds[name], attribute)
        case ast.Call(ast.Name(name)) if name in kinds and name not in known:
            return member(kinds[name], "__call__")
    return None


def made(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """The variables that a statement gives a value, and what it makes that of."""
    match node:
        case ast.Assign([ast.Name(name)], value) | ast.withitem(value, ast.Name(name)):
            yield name, value
        case ast.For(ast.Name(name), value) | ast.AsyncFor(ast.Name(name), value):
            yield name, value
        case ast.FunctionDef(name) | ast.AsyncFunctionDef(name):
            yield from ((name, each) for each in node.decorator_list)


def asserted(value: ast.AST, origins: dict[str, list[ast.AST]]) -> Iterator[ast.AST]:
    """What an expression has the type of, or of a part of it."""
    yield value
    match value:
        case ast.Tuple(elements):
            inner = elements
        case ast.Await(each) | ast.Call(each):
            inner = [each]
        case ast.Name(name):
            inner = origins.get(name, [])
        case _:
            inner = []
    for each in inner:
        yield from asserted(each, origins)


@functools.cache
def named_anywhere() -> set[str]:
    """What all typing tests name."""
    return set().union(*(named(file.read_text()) for file in FILES))


@pytest.mark.parametrize("module", [*MODULES, *BESIDES])
def test_every_public_signature_is_checked(module):
    """Whatever a module offers, methods and fields included, stands in a typing test."""
    wanted = set(asked_for(module))
    assert len(wanted) > 1
    assert wanted - named_anywhere() == set()


def test_no_public_module_is_left_out():
    """What README and the documentation import from, and a module that lists its names."""
    files = Path(import_module("keylatch").__file__).parent.glob("*.py")
    listing = {f"keylatch.{path.stem}" for path in files if "\n__all__ =" in path.read_text()}
    texts = [page.read_text("utf-8") for page in (ROOT / "README.md", *pages(ROOT / "docs"))]
    shown = {
        node.module
        for text in texts
        for block in fences(text)
        if block.language == "python"
        for node in ast.walk(ast.parse(block.body))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("keylatch")
    }
    assert len(shown) > 2
    assert (listing - {"keylatch.__init__"}) | shown <= set(MODULES)


def test_the_same_name_of_another_class_does_not_count():
    """What asserts ``keys.get`` asserts no other ``get``, and an unknown receiver is nothing."""
    source = """
from keylatch import APIKeys, Page
async def one(keys: APIKeys, others):
    assert_type(await keys.get("id"), APIKey)
    assert_type(others.revoke, None)
    assert_type({}.items, None)
async def two(keys, page: Page):
    assert_type(keys.list, None)
    assert_type(page.next_cursor, None)
"""
    assert {name for name in named(source) if not name.startswith("keylatch.testing")} - {""} == {
        "keylatch.keys.APIKeys",
        "keylatch.management.KeyManagement.get",
        "keylatch.records.Page",
        "keylatch.records.Page.next_cursor",
    }


def test_a_call_whose_type_is_not_asserted_does_not_count():
    """Nor does a function that is mentioned, or what stands in the arguments of another."""
    source = """
from keylatch import APIKeys, mint, parse
async def one(keys: APIKeys):
    await keys.revoke("id")
    parsed = parse("token")
    assert_type(print(keys.flush, mint()), None)
    async with keys.lifespan(None) as nothing:
        found = await keys.verify("token")
    assert_type((nothing, found), None)
"""
    assert {name for name in named(source) if not name.startswith("keylatch.testing")} - {""} == {
        "keylatch.keys.APIKeys",
        "keylatch.keys.APIKeys.lifespan",
        "keylatch.keys.APIKeys.verify",
    }
