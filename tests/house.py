"""Counts what the limits of `tests/test_house.py` speak of, by reading the package's source.

    python -m tests.house             prints what is over a limit
    python -m tests.house --shrink    lowers and drops lines of `tests/house_today.py`

Nothing of the package is imported: a class is what its source says. What a class inherits from
classes of ours belongs to it; what it inherits from others' does not.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeGuard

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "thousand_island_sync"
TABLE = ROOT / "tests" / "house_today.py"

#: What users see. They have the methods of the contract, so only their private ones are limited.
FACES = {"socket.Socket", "server.ThousandIsland", "connection.Connection", "handler.Handler"}
#: Over each of these is an offender: a class, a method of a face, a file, or a function.
LIMITS = {
    "methods": 30,  # of a class, inherited ones with it; of a face the private ones:
    "private methods": 10,
    "lines": 8,  # of code, of a public method of a face
    "fields": 20,  # of a class, inherited ones with it
    "depth": 2,  # of inheritance among classes of ours
    "elsewhere": 0,  # uses of a `self._x` that another file declares
    "parameters": 6,  # of a function
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def names_stored(node: ast.AST) -> Iterator[str]:
    """The bare names that a statement assigns to."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
            yield inner.id


@dataclass(eq=False)
class Class:
    """One class of the package, as its body says."""

    file: File
    node: ast.ClassDef
    methods: dict[str, Function] = field(default_factory=dict)
    slots: set[str] = field(default_factory=set)
    #: Assigned in the class's body.
    attributes: set[str] = field(default_factory=set)
    #: Assigned to `self` or `cls` by its methods.
    stored: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        for statement in self.node.body:
            if isinstance(statement, Function):
                if not any("overload" in ast.unparse(one) for one in statement.decorator_list):
                    self.methods[statement.name] = statement
            elif isinstance(statement, ast.Assign | ast.AnnAssign):
                self._note_attributes(statement)
        for node in ast.walk(self.node):
            if is_of_self(node) and isinstance(node.ctx, ast.Store):
                self.stored.add(node.attr)

    def _note_attributes(self, statement: ast.Assign | ast.AnnAssign) -> None:
        names = set(names_stored(statement))
        if "__slots__" in names and statement.value is not None:
            for node in ast.walk(statement.value):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    self.slots.add(node.value)
        self.attributes |= {name for name in names if not name.startswith("__")}

    @property
    def name(self) -> str:
        return f"{self.file.name}.{self.node.name}".lstrip(".")

    @property
    def fields(self) -> set[str]:
        found = self.slots | self.stored
        if any("dataclass" in ast.unparse(one) for one in self.node.decorator_list):
            found |= self.attributes
        return found - {"__dict__", "__weakref__"}

    @property
    def base_names(self) -> list[str]:
        bases = (
            base.value if isinstance(base, ast.Subscript) else base for base in self.node.bases
        )
        return [ast.unparse(base) for base in bases]

    @cached_property
    def bases(self) -> list[Class]:
        """Those of its bases that are the package's own."""
        found = [self.file.package.find_class(self.file, name) for name in self.base_names]
        return [base for base in found if base is not None and base is not self]

    @cached_property
    def chain(self) -> list[Class]:
        """Itself, and all it inherits from."""
        found = [self]
        for base in self.bases:
            found += [one for one in base.chain if one not in found]
        return found

    @cached_property
    def is_judged(self) -> bool:
        """Errors, Protocols and TypedDicts hold no logic, and their trees are their users'."""
        last = [name.rpartition(".")[2] for one in self.chain for name in one.base_names]
        return not any(
            name.endswith(("Error", "Exception", "Warning", "Protocol", "TypedDict"))
            for name in last
        )

    @property
    def depth(self) -> int:
        return max((1 + base.depth for base in self.bases if base.is_judged), default=0)

    @property
    def all_methods(self) -> dict[str, Function]:
        found: dict[str, Function] = {}
        for one in reversed([one for one in self.chain if one.is_judged]):
            found.update(one.methods)
        return found

    @property
    def public_methods(self) -> dict[str, Function]:
        return {name: one for name, one in self.all_methods.items() if not name.startswith("_")}

    @property
    def all_fields(self) -> set[str]:
        judged = [one for one in self.chain if one.is_judged]
        return set().union(*(one.fields for one in judged)) - set(self.all_methods)


def is_of_self(node: ast.AST) -> TypeGuard[ast.Attribute]:
    """`self.x`, `cls.x` and `super().x`."""
    if not isinstance(node, ast.Attribute):
        return False
    of = node.value
    if isinstance(of, ast.Call):
        of = of.func
        return isinstance(of, ast.Name) and of.id == "super"
    return isinstance(of, ast.Name) and of.id in ("self", "cls")


@dataclass(eq=False)
class File:
    """One module of the package."""

    package: Package
    path: Path

    def __post_init__(self) -> None:
        self.source = self.path.read_text()
        self.tree = ast.parse(self.source)
        self.nodes = list(ast.walk(self.tree))
        parts = self.path.relative_to(self.package.path).with_suffix("").parts
        self.name = ".".join(part for part in parts if part != "__init__")
        self.classes = {
            node.name: Class(self, node) for node in self.nodes if isinstance(node, ast.ClassDef)
        }
        #: What a name means that was imported: the module of the package, and the name there.
        self.imported: dict[str, tuple[str, str]] = {}
        #: Names that came from other packages.
        self.others: set[str] = set()
        #: A base type that is chosen once, `Base = native.Base if native else PythonBase`: what
        #: it may be.
        self.choices: dict[str, list[str]] = {}
        for node in self.nodes:
            if isinstance(node, ast.Assign):
                for target in names_stored(node):
                    self.choices[target] = [
                        inner.id for inner in ast.walk(node.value) if isinstance(inner, ast.Name)
                    ]
        for node in self.nodes:
            if isinstance(node, ast.Import):
                self.others |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                self._note_import(node)

    def _note_import(self, node: ast.ImportFrom) -> None:
        if not node.level:
            self.others |= {alias.asname or alias.name for alias in node.names}
            return
        folder = self.path.relative_to(self.package.path).parent.parts
        base = [*folder[: len(folder) - node.level + 1], *(node.module or "").split(".")]
        module = ".".join(part for part in base if part)
        for alias in node.names:
            self.imported[alias.asname or alias.name] = (module, alias.name)

    @cached_property
    def declared(self) -> set[str]:
        """The private names that are this file's own: of its classes and of itself."""
        found: set[str] = set()
        for one in self.classes.values():
            found |= set(one.methods) | one.slots | one.attributes
            elsewhere = set().union(*(parent.slots for parent in one.chain[1:]))
            found |= one.stored - elsewhere
        for node in self.nodes:
            if isinstance(node, Function | ast.ClassDef):
                found.add(node.name)
        for statement in self.tree.body:
            if isinstance(statement, ast.Assign | ast.AnnAssign):
                found |= set(names_stored(statement))
        return {name for name in found if is_private(name)}

    @cached_property
    def code_lines(self) -> set[int]:
        """Its lines, without blank ones, comments and docstrings."""
        lines: set[int] = set()
        silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
        for token in tokenize.generate_tokens(io.StringIO(self.source).readline):
            if token.type not in silent and token.type != tokenize.ENDMARKER:
                lines |= set(range(token.start[0], token.end[0] + 1))
        for node in self.nodes:
            if isinstance(node, Function | ast.ClassDef | ast.Module) and ast.get_docstring(node):
                first = node.body[0]
                lines -= set(range(first.lineno, (first.end_lineno or 0) + 1))
        return lines

    def private_uses(self) -> Iterator[tuple[bool, str]]:
        """Each use of a private name that other files declare and this one does not.

        With it whether it is one of `self`, and where it stands."""
        for node in self.nodes:
            if not isinstance(node, ast.Attribute) or not is_private(node.attr):
                continue
            if node.attr in self.declared or node.attr not in self.package.declared:
                continue
            of = node.value
            if isinstance(of, ast.Name) and of.id in self.others:
                continue  # os._exit and the like are their modules' matter
            yield is_of_self(node), f"{self.path.name}:{node.lineno} {ast.unparse(node)}"

    def functions(self) -> Iterator[tuple[str, Function]]:
        """Every function, by its place: module, class, name."""

        def inside(node: ast.AST, place: str) -> Iterator[tuple[str, Function]]:
            for child in ast.iter_child_nodes(node):
                if isinstance(child, Function | ast.ClassDef):
                    name = f"{place}.{child.name}".lstrip(".")
                    if not isinstance(child, ast.ClassDef):
                        yield name, child
                    yield from inside(child, name)
                else:
                    yield from inside(child, place)

        return inside(self.tree, self.name)


class Package:
    """All files of the package."""

    def __init__(self, path: Path = PACKAGE) -> None:
        self.path = path
        files = [File(self, one) for one in sorted(path.rglob("*.py"))]
        self.files = {file.name: file for file in files}
        self.declared = set().union(*(file.declared for file in files))

    @property
    def classes(self) -> list[Class]:
        """Those that are judged."""
        every = (one for file in self.files.values() for one in file.classes.values())
        return [one for one in every if one.is_judged]

    @property
    def code_lines(self) -> int:
        return sum(len(file.code_lines) for file in self.files.values())

    def find_class(self, file: File, name: str) -> Class | None:
        """The class of ours that a name means in a file; `None`: it is not ours."""
        first, _, rest = name.partition(".")
        if not rest and first in file.classes:
            return file.classes[first]
        if first not in file.imported:
            chosen = [name for name in file.choices.get(first, ()) if name in file.classes]
            return file.classes[chosen[0]] if chosen and not rest else None
        module, original = file.imported[first]
        longer = f"{module}.{original}".lstrip(".")
        if longer in self.files:
            return self.find_class(self.files[longer], rest) if rest else None
        return self.find_class(self.files[module], original) if module in self.files else None

    def foreign_uses(self) -> list[str]:
        """Where `other._x` stands, `_x` being declared in other files only."""
        files = self.files.values()
        return [where for file in files for own, where in file.private_uses() if not own]


def count_lines(face: Class, name: str) -> int:
    """The lines of code in a method's body."""
    method = face.all_methods[name]
    owner = next(one for one in face.chain if name in one.methods)
    body = range(method.body[0].lineno, (method.end_lineno or 0) + 1)
    return len(owner.file.code_lines.intersection(body))


def count_parameters(function: Function) -> int:
    """What a caller can give; `self` and `cls` do not count, nor does what `**` gathers. The
    options of the server are no parameters of a function: they are written out for editors."""
    if any("written_out" in ast.unparse(one) for one in function.decorator_list):
        return 0
    arguments = function.args
    names = [one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def figures(package: Package) -> dict[str, dict[str, int]]:
    """Each limit's figures: class, file or function, and how much it has."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for one in package.classes:
        if one.name in FACES:
            private = [name for name in one.all_methods if is_private(name)]
            found["private methods"][one.name] = len(private)
            for name in one.public_methods:
                found["lines"][f"{one.name}.{name}"] = count_lines(one, name)
        else:
            found["methods"][one.name] = len(one.all_methods)
        found["fields"][one.name] = len(one.all_fields)
        found["depth"][one.name] = one.depth
    for name, file in package.files.items():
        found["elsewhere"][name or "__init__"] = sum(own for own, _ in file.private_uses())
        for place, function in file.functions():
            found["parameters"][place] = count_parameters(function)
    return found


def over(package: Package) -> dict[str, dict[str, int]]:
    """What is over its limit."""
    return {
        limit: {name: value for name, value in sorted(rows.items()) if value > LIMITS[limit]}
        for limit, rows in figures(package).items()
    }


def written(package: Package, today: dict[str, dict[str, int]], foreign: int) -> str:
    """The text of `tests/house_today.py`."""
    lines = [
        '"""What is over the limits of `tests/test_house.py` today: it may only become less.',
        "",
        "A line is taken out, or its figure lowered, by `python -m tests.house --shrink`. Where a",
        "class, a file or a function gets another name, its line here gets it, too.",
        '"""',
        "",
        "#: How many uses of other objects' private names there are.",
        f"FOREIGN = {foreign}",
        "",
        "TODAY = {",
    ]
    for limit in LIMITS:
        rows = [f'        "{name}": {value},' for name, value in today.get(limit, {}).items()]
        lines += [f'    "{limit}": {{', *rows, "    },"] if rows else [f'    "{limit}": {{}},']
    return "\n".join([*lines, "}", ""])


def shrink(package: Package) -> None:
    """Takes what is over now into the table, but never more than stands there."""
    from tests.house_today import FOREIGN, TODAY

    now = over(package)
    kept = {
        limit: {
            name: min(value, now[limit][name]) for name, value in rows.items() if name in now[limit]
        }
        for limit, rows in TODAY.items()
    }
    foreign = min(FOREIGN, len(package.foreign_uses()))
    TABLE.write_text(written(package, kept, foreign))


if __name__ == "__main__":
    package = Package()
    if sys.argv[1:] == ["--shrink"]:
        shrink(package)
    else:
        for limit, rows in over(package).items():
            for name, value in rows.items():
                print(f"{limit} (at most {LIMITS[limit]}): {name} {value}")
        print(f"foreign private names: {len(package.foreign_uses())} in {package.code_lines} lines")
