"""Which FAI_* variables the code reads, from its syntax tree, so that no list of them can fall behind."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SERVER_MODULE = ROOT / "fai_project" / "settings.py"
VOLUNTEER_MODULE = ROOT / "fai" / "config.py"


def server_variables() -> set[str]:
    """Every FAI_* name that settings.py holds as a whole string."""
    return {
        name for name in _strings(ast.parse(SERVER_MODULE.read_text("utf-8"))) if re.fullmatch(r"FAI_[A-Z0-9_]+", name)
    }


def volunteer_variables() -> set[str]:
    """What fai/config.py asks of `values`, the environment without its prefix: values.get(NAME), f(values, NAME)."""
    calls = [node for node in ast.walk(ast.parse(VOLUNTEER_MODULE.read_text("utf-8"))) if isinstance(node, ast.Call)]
    asking = [call for call in calls if any(_is_values(node) for node in [_owner(call), *call.args])]
    names = {name for call in asking for argument in call.args for name in _strings(argument)}
    return {f"FAI_{name}" for name in names if re.fullmatch(r"[A-Z][A-Z0-9_]+", name)}


def _strings(tree: ast.AST) -> set[str]:
    constants = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return {value for value in constants if isinstance(value, str)}


def _owner(call: ast.Call) -> ast.AST:
    return call.func.value if isinstance(call.func, ast.Attribute) else call.func


def _is_values(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "values"
