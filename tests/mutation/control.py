"""A security control, and the smallest change of the source that takes it away."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Control:
    """``old`` stands once in ``file``, and with ``new`` in its place the control is gone.

    ``tests`` are those that are expected to notice: ``file::name``, or ``file::Class::name``; with parameters, all of them.
    """

    name: str
    threats: tuple[str, ...]
    old: str
    new: str
    tests: tuple[str, ...]
    file: str = ""

    def mutated(self, source: str) -> str:
        """``ValueError`` when ``old`` does not stand there exactly once, ``SyntaxError`` when what comes out is no program."""
        found = source.count(self.old)
        if found != 1:
            raise ValueError(f"{self.name}: {self.old!r} stands {found} times in {self.file}, not once")
        changed = source.replace(self.old, self.new)
        ast.parse(changed)
        return changed


def control(name: str, threats: str, old: str, new: str, *tests: str) -> Control:
    """``threats`` are row ids with spaces between them; a test without a path is one of the default file of :func:`of`."""
    return Control(name, tuple(threats.split()), old, new, tests)


def of(file: str, tests: str, *controls: Control) -> Iterable[Control]:
    """The controls of one source file; ``tests`` is the file of those tests that name none."""
    for one in controls:
        named = tuple(test if test.startswith("tests/") else f"{tests}::{test}" for test in one.tests)
        yield replace(one, file=file, tests=named)


def missing(test: str) -> bool:
    """Whether there is no such test in the file that ``test`` names. A class may have it from one that it inherits."""
    path, *names = test.split("::")
    module = _parsed(path)
    *classes, name = names or [""]
    scopes: list[ast.Module | ast.ClassDef] = [module]
    for one in classes:
        scopes = [
            found for scope in scopes for found in scope.body if isinstance(found, ast.ClassDef) and found.name == one
        ]
        scopes += [base for found in scopes for base in _bases(found, module)]
    return not any(_defines(scope, name) for scope in scopes)


def _bases(found: ast.Module | ast.ClassDef, module: ast.Module) -> Iterable[ast.ClassDef]:
    """Those that the module imports by name from another of our test files."""
    wanted = {base.id for base in getattr(found, "bases", ()) if isinstance(base, ast.Name)}
    for node in module.body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tests."):
            source = _parsed(f"{node.module.replace('.', '/')}.py")
            imported = wanted & {alias.name for alias in node.names}
            yield from (one for one in source.body if isinstance(one, ast.ClassDef) and one.name in imported)


def _defines(scope: ast.Module | ast.ClassDef, name: str) -> bool:
    """A test is a function, or the class that a state machine of Hypothesis gives to pytest."""
    functions = (node.name for node in scope.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    assigned = (
        target.id
        for node in scope.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    )
    return name in {*functions, *assigned}


@functools.cache
def _parsed(path: str) -> ast.Module:
    return ast.parse((REPOSITORY / path).read_text(encoding="utf-8"))
