"""The package `kernels` shares its name with a distribution that transformers looks for."""

import ast

from packaging.version import Version
from transformers.utils import import_utils

import kernels
from tests.packaging.conftest import ROOT
from tools.python_syntax import parse_python


def test_the_package_kernels_imports_nothing() -> None:
    tree = parse_python((ROOT / "kernels" / "__init__.py").read_text(encoding="utf-8"))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert found == []
    calls = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert calls == []


def test_transformers_does_not_take_it_for_the_other() -> None:
    least = Version(import_utils.KERNELS_MIN_VERSION)
    assert Version(kernels.__version__) < least
    assert not import_utils.is_kernels_available()
