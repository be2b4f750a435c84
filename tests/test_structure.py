"""Who may import whom, and what an import of keylatch brings along."""

import ast
import json
import re
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import pytest

import keylatch
from keylatch import _native

ROOT = Path(__file__).parent.parent
PACKAGE = Path(keylatch.__file__).parent

# What each module may import of keylatch. `keylatch` stands for its public names.
PYTHON_ARROWS = {
    "__init__": {"_native", "keys", "limits", "records"},
    "errors": set(),
    "bounds": set(),
    "callables": set(),
    "calling": {"callables", "errors"},
    "records": set(),
    "moments": set(),
    "frozen": set(),
    "turns": set(),
    "listing": {"bounds", "moments", "records"},
    "changes": {"bounds", "errors", "records"},
    "delegation": {"changes", "errors", "listing", "records", "store"},
    "kids": set(),
    "store": {"kids", "listing", "records"},
    "memory": {"errors", "kids", "listing", "records", "store"},
    "tables": set(),
    "drivers": {"errors"},
    "threads": {"drivers"},
    "listening": set(),
    "engines": {"drivers", "errors", "listening", "threads"},
    "schema": {"engines", "errors", "tables"},
    "paging": {"listing", "tables"},
    "rows": {"errors", "records", "tables"},
    "locks": {"errors", "records", "rows", "tables"},
    "trail": {"records", "rows", "tables"},
    "counting": {"kids", "locks", "records", "rows", "tables"},
    "inserting": {"locks", "records", "rows", "store", "tables", "trail"},
    "statements": {
        "inserting",
        "listing",
        "locks",
        "paging",
        "records",
        "rows",
        "store",
        "tables",
        "trail",
    },
    "sqlalchemy": {
        "counting",
        "engines",
        "errors",
        "inserting",
        "kids",
        "listening",
        "listing",
        "migrations",
        "records",
        "schema",
        "statements",
        "store",
        "tables",
        "trail",
    },
    "migrations.steps": {"errors"},
    "migrations.locks": {"errors", "schema"},
    "migrations.versions": {"migrations.steps"},  # each revision: it says all by itself
    "migrations": {"engines", "errors", "migrations.locks", "schema", "tables"},
    "rehashing": {"_native", "bounds", "changes", "errors", "kids", "store"},
    "stretching": {"errors"},
    "loading": {
        "_native",
        "errors",
        "frozen",
        "moments",
        "records",
        "rehashing",
        "store",
        "stretching",
    },
    "gathering": {"frozen", "records"},
    "listeners": {"callables", "gathering", "records"},
    "settling": {"errors", "records", "store"},
    "expiring": {"changes", "errors", "listing", "records", "settling", "store"},
    "hooks": {
        "bounds",
        "callables",
        "errors",
        "expiring",
        "frozen",
        "gathering",
        "listeners",
        "records",
        "settling",
        "store",
    },
    "feed": {"_native", "bounds", "errors", "records", "store"},
    "usage": {"_native", "errors", "moments", "records", "store"},
    "grace": {"errors", "records", "store"},
    "limits": {"_native", "callables", "errors", "records"},
    "making": {
        "_native",
        "bounds",
        "changes",
        "errors",
        "expiring",
        "hooks",
        "loading",
        "records",
        "settling",
        "store",
        "turns",
    },
    "management": {
        "_native",
        "bounds",
        "changes",
        "delegation",
        "errors",
        "listing",
        "making",
        "records",
    },
    "importing": {
        "_native",
        "bounds",
        "changes",
        "errors",
        "loading",
        "management",
        "records",
        "store",
    },
    "identifying": {"_native", "errors", "importing", "records"},
    "masked": {"_native"},
    "masking": {"_native", "masked"},
    "findings": {"_native", "errors", "records"},
    "repositories": set(),
    "git": {"_native", "repositories"},
    "origins": {"git", "repositories"},
    "history": {"_native", "git", "origins", "repositories"},
    "sarif": {"findings"},
    "scan_rules": {"_native"},
    "keys": {
        "_native",
        "bounds",
        "errors",
        "expiring",
        "feed",
        "grace",
        "hooks",
        "identifying",
        "kids",
        "limits",
        "loading",
        "moments",
        "records",
        "sqlalchemy",
        "store",
        "usage",
    },
    "prometheus": {"keys"},
    "challenges": {"errors"},
    "gate": {"_native", "challenges", "errors", "keys", "limits", "records"},
    "lasting": set(),
    "paths": {"errors"},
    "asgi": {"bounds", "challenges", "errors", "gate", "keys", "limits", "paths", "records"},
    "router_models": {"bounds", "records"},
    "router": {"delegation", "errors", "keys", "management", "records", "router_models"},
    "openapi": {"challenges"},
    "mounts": set(),
    "schemes": {"mounts", "openapi"},
    "either": {"callables", "calling", "records"},
    "door": {"bounds", "errors", "gate", "records", "refusals"},
    "variants": {"calling", "door", "either", "errors", "openapi", "records", "refusals"},
    "testing": {"keylatch", "memory", "mounts"},
    "fastapi": {
        "bounds",
        "calling",
        "challenges",
        "door",
        "either",
        "errors",
        "gate",
        "keys",
        "lasting",
        "limits",
        "mounts",
        "openapi",
        "owners",
        "records",
        "refusals",
        "router",
        "schemes",
        "variants",
    },
    "refusals": {"challenges", "errors"},
    "owners": {"callables", "calling", "records"},
    "article": {"engines", "errors"},
    "article_import": {
        "_native",
        "article",
        "bounds",
        "errors",
        "importing",
        "keys",
        "records",
    },
    "cli_output": {"errors", "records"},
    "cli_progress": set(),
    "cli_options": set(),
    "cli_tokens": {"_native", "errors"},
    "cli_asking": {"cli_tokens"},
    "cli_database": {"errors"},
    "cli_search": {
        "_native",
        "cli_output",
        "cli_progress",
        "findings",
        "git",
        "history",
        "repositories",
    },
    "cli_ending": set(),
    "cli_scan": {
        "_native",
        "cli_ending",
        "cli_keys",
        "cli_options",
        "cli_output",
        "cli_search",
        "cli_tokens",
        "findings",
        "identifying",
        "keys",
        "sarif",
        "scan_rules",
    },
    "cli_leaked": {
        "_native",
        "cli_asking",
        "cli_database",
        "cli_keys",
        "cli_options",
        "cli_output",
        "cli_tokens",
        "errors",
        "findings",
        "keys",
        "records",
    },
    "cli_bulk": {
        "_native",
        "cli_keys",
        "cli_options",
        "cli_output",
        "cli_progress",
        "errors",
        "keys",
        "records",
    },
    "cli_db": {"cli_database", "cli_options", "cli_output", "sqlalchemy"},
    "cli_secrets": {
        "_native",
        "cli_database",
        "cli_options",
        "cli_output",
        "errors",
        "kids",
        "sqlalchemy",
    },
    "cli_import": {
        "article",
        "article_import",
        "cli_database",
        "cli_keys",
        "cli_options",
        "cli_output",
        "cli_progress",
        "cli_tokens",
    },
    "cli_keys": {"_native", "cli_database", "cli_output", "errors", "keys", "records"},
    "cli_reading": {"cli_keys", "cli_options", "cli_output", "keys", "records"},
    "protection": {"either", "fastapi", "variants"},
    "routes": {"asgi", "errors", "mounts", "protection"},
    "cli_routes": {"cli_options", "cli_output", "errors", "routes"},
    "cli_changing": {
        "bounds",
        "cli_asking",
        "cli_database",
        "cli_keys",
        "cli_options",
        "cli_output",
        "keys",
        "records",
    },
    "cli_commands": {
        "_native",
        "cli_bulk",
        "cli_changing",
        "cli_database",
        "cli_db",
        "cli_import",
        "cli_keys",
        "cli_leaked",
        "cli_options",
        "cli_output",
        "cli_reading",
        "cli_routes",
        "cli_scan",
        "cli_secrets",
        "cli_tokens",
        "errors",
    },
    "cli": {"cli_commands", "cli_output", "errors"},
}
# The same for `use crate::…` in Rust, and the only files that may know PyO3.
RUST_ARROWS = {
    "secrets": set(),
    "token": {"secrets"},
    "hash": {"secrets"},
    "headers": {"cookies", "query"},
    "sync": set(),
    "clock": {"sync"},
    "cookies": set(),
    "query": set(),
    "cache": {"hash", "sync", "token"},
    "ledger": {"sync", "token"},
    "limiter": {"sync", "token"},
    "scan": {"token"},
    "masking": {"token"},
    "walk": {"scan"},
    "python_scan": {"masking", "python", "scan", "token", "walk"},
    "engine": {"cache", "clock", "hash", "ledger", "secrets", "sync", "token"},
    "python": {"hash", "headers", "secrets", "token"},
    "python_engine": {
        "cache",
        "clock",
        "engine",
        "hash",
        "headers",
        "ledger",
        "python",
        "sync",
        "token",
    },
    "python_limiter": {"limiter", "python"},
    "lib": {"python", "python_engine", "python_limiter", "python_scan"},
}
KNOW_PYO3 = {"python", "python_engine", "python_limiter", "python_scan", "lib"}
THIRD_PARTIES = {
    "drivers": {"sqlalchemy"},
    "threads": {"sqlalchemy"},
    "listening": {"sqlalchemy"},
    "engines": {"sqlalchemy"},
    "schema": {"sqlalchemy"},
    "paging": {"sqlalchemy"},
    "rows": {"sqlalchemy"},
    "locks": {"sqlalchemy"},
    "trail": {"sqlalchemy"},
    "counting": {"sqlalchemy"},
    "inserting": {"sqlalchemy"},
    "statements": {"sqlalchemy"},
    "sqlalchemy": {"sqlalchemy"},
    "tables": {"sqlalchemy"},
    "migrations": {"alembic", "sqlalchemy"},
    "migrations.locks": {"sqlalchemy"},
    "migrations.steps": {"alembic", "sqlalchemy"},
    "migrations.versions": {"alembic", "sqlalchemy"},
    "fastapi": {"fastapi", "starlette"},
    "calling": {"fastapi", "starlette"},
    "owners": {"fastapi"},
    "mounts": {"fastapi", "starlette"},
    "schemes": {"fastapi"},
    "door": {"fastapi", "starlette"},
    "variants": {"fastapi", "starlette"},
    "either": {"fastapi", "starlette"},
    "refusals": {"fastapi"},
    "router": {"fastapi", "starlette"},
    "router_models": {"pydantic"},
    "prometheus": {"prometheus_client"},
    "cli": {"typer"},
    "article": {"sqlalchemy"},
    "cli_asking": {"typer"},
    "cli_bulk": {"typer"},
    "cli_leaked": {"typer"},
    "cli_scan": {"typer"},
    "cli_import": {"typer"},
    "cli_progress": {"rich"},
    "cli_changing": {"typer"},
    "cli_commands": {"typer"},
    "cli_database": {"sqlalchemy"},
    "cli_db": {"typer"},
    "cli_options": {"typer"},
    "cli_secrets": {"typer"},
    "cli_output": {"rich"},
    "cli_reading": {"typer"},
    "cli_routes": {"typer"},
    "protection": {"fastapi"},
    "routes": {"fastapi", "starlette"},
    "testing": {"pytest", "starlette"},
}


def imports(path: Path) -> set[str]:
    """Every module that a file imports at run time, also within its functions."""
    names: set[str] = set()
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module == "keylatch":
                names |= {f"keylatch.{alias.name}" for alias in node.names}
            else:
                names.add(node.module)
    return names


def modules() -> dict[str, Path]:
    """The package's own files, by the names of their modules."""
    names = {path: path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py")}
    return {
        ".".join(name.parts).removesuffix(".__init__"): path for path, name in sorted(names.items())
    }


MODULES = modules()


@pytest.mark.parametrize("module", MODULES)
def test_python_arrows_run_one_way(module):
    """A module imports only what stands before it, and only its own framework."""
    imported = imports(MODULES[module])
    own = {name.removeprefix("keylatch.") for name in imported if name.startswith("keylatch")}
    own = {name if name in MODULES or name == "_native" else "keylatch" for name in own}
    if module.startswith("migrations.versions."):
        module = "migrations.versions"
    assert own <= PYTHON_ARROWS[module]
    foreign = {name.split(".")[0] for name in imported} - {"keylatch"}
    assert foreign - sys.stdlib_module_names <= THIRD_PARTIES.get(module, set())


@pytest.mark.parametrize("path", sorted((ROOT / "src").glob("*.rs")), ids=lambda path: path.stem)
def test_rust_arrows_run_one_way(path):
    """A file uses only what stands before it, and only the rim knows PyO3."""
    source = re.sub(r"//.*", "", path.read_text())
    assert "super::" not in source
    used = set(re.findall(r"\bcrate::(\w+)", source))
    for braces in re.findall(r"\bcrate::\{(.*?)\};", source, re.DOTALL):
        used |= set(re.findall(r"(?:^|,)\s*(\w+)", braces))
    assert used <= RUST_ARROWS[path.stem]
    if path.stem not in KNOW_PYO3:
        assert "pyo3" not in source


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that are loaded after a statement, in a new interpreter."""
    code = f"{statement}; import sys, json; print(json.dumps(sorted(sys.modules)))"
    output = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    return {name.split(".")[0] for name in json.loads(output)}


def test_importing_keylatch_imports_no_framework():
    """The base package loads neither FastAPI, nor SQLAlchemy, nor anything else of others."""
    loaded = loaded_by("import keylatch")
    assert not loaded & {"fastapi", "starlette", "sqlalchemy", "pydantic", "typer", "rich"}
    before = loaded_by("pass")
    for statement in ("import keylatch", "import keylatch.memory, keylatch.errors, keylatch.asgi"):
        assert loaded_by(statement) - before - sys.stdlib_module_names == {"keylatch"}


def test_each_integration_imports_its_own_framework_only():
    """SQLAlchemy comes without FastAPI and Alembic, and FastAPI without SQLAlchemy."""
    assert not loaded_by("import keylatch.sqlalchemy") & {"fastapi", "alembic"}
    assert "sqlalchemy" not in loaded_by("import keylatch.fastapi")


def test_the_base_install_needs_nothing():
    """Without extras, pip installs nothing but keylatch."""
    from importlib.metadata import requires

    assert [line for line in requires("keylatch") if "extra ==" not in line] == []


def test_the_package_is_typed_and_documented():
    """Type checkers read the package, and everything public says what it is for."""
    assert (PACKAGE / "py.typed").exists()
    public = {name: getattr(keylatch, name) for name in keylatch.__all__}
    public |= {name: getattr(_native, name) for name in _native.__all__}
    for name, thing in public.items():
        assert thing.__doc__, name
        # A dataclass without a docstring is given its own signature for one.
        assert not thing.__doc__.startswith(f"{name}("), name
        for member, value in vars(thing).items() if isinstance(thing, type) else ():
            if not member.startswith("_") and not isinstance(value, types.MemberDescriptorType):
                assert getattr(thing, member).__doc__, f"{name}.{member}"


def test_the_wheel_holds_the_package_and_nothing_else():
    """No test, no source file and no secret travels in the wheel."""
    wheels = list((ROOT / "target" / "wheels").glob("keylatch-*.whl"))
    assert len(wheels) == 1
    assert "abi3" in wheels[0].name
    for name in zipfile.ZipFile(wheels[0]).namelist():
        assert re.match(r"keylatch(-[\d.]+\.(dist-info|data))?/", name)
        assert not name.endswith((".rs", ".toml", ".env"))


def test_the_wheel_holds_every_module():
    """Also those that Alembic finds by looking into a directory."""
    source = ROOT / "python" / "keylatch"
    installed = {path.relative_to(PACKAGE) for path in MODULES.values()}
    assert {path.relative_to(source) for path in source.rglob("*.py")} == installed
