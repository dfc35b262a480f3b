"""`_native.pyi` says what the C module has."""

import ast
from pathlib import Path

import pytest

import thousand_island_sync
from thousand_island_sync._base.compiled import native

pytestmark = pytest.mark.skipif(native is None, reason="nothing is compiled here")

STUB = ast.parse((Path(thousand_island_sync.__file__).parent / "_native.pyi").read_text())


def declared(body):
    """Name -> what the stub says of it."""
    found = {}
    for statement in body:
        if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            found[statement.name] = statement
        elif isinstance(statement, ast.AnnAssign):
            found[statement.target.id] = statement
        elif isinstance(statement, ast.Assign):
            found[statement.targets[0].id] = statement
    return found


def own(names):
    return {name for name in names if not name.startswith("__")}


def test_functions_and_types_are_in_the_stub():
    numbers = {name for name, thing in vars(native).items() if type(thing) is int}
    assert own(vars(native)) - numbers == own(declared(STUB.body))


TYPES = {name: one for name, one in declared(STUB.body).items() if isinstance(one, ast.ClassDef)}


@pytest.mark.parametrize("name", sorted(TYPES))
def test_fields_and_methods_of_a_base_type_are_in_the_stub(name):
    assert own(vars(getattr(native, name))) == own(declared(TYPES[name].body))
