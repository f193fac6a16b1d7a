"""Walks the calls of a function through the files, without running it.

The walk begins in one function and goes through its body in the order in which
Python would compute it, arguments before their call, all branches. It enters
each function that is named there, called or handed on, and walks it once:

- A name that stands for a table of its module enters all functions in it.
- A class that is called enters its `__init__` and `__post_init__`.
- A method is found by the class of its object. The class is known from `self`,
  from the annotations of parameters, results and fields, or from what was
  assigned. A container is taken for its elements. An object whose class is
  unknown leads nowhere, and a property is a value, not a call.
- An object of a class hierarchy is taken for the one class whose attribute
  `name` is `via`, such as `name = "litert"`.
- A method of another file is entered if it is a class method or belongs to the
  hierarchy of `via`. All other objects are records: to ask a record is no way
  of the data. With `methods=True` these are entered too.
- The walk stays in the package in which it begins.

A step is a function that is entered; a stay is an unbroken run of steps in one
file. The way back to a caller is no step. So `export(model)` has 100 stays in
41 files at commit 2be3931, and 144 in 47 with all methods. The 97 stays in 32
files that were first given for it followed one value by other rules.
"""

import ast
from collections.abc import Iterable
from pathlib import Path

from support.sources import (
    Class,
    Function,
    Module,
    Object,
    Scope,
    Sources,
    Values,
    has_decorator,
)


class Walk:
    """The files in which a walk from one function stays."""

    def __init__(self, sources: Sources, *, methods: bool = False) -> None:
        self.stays: list[Path] = []
        self._sources = sources
        self._methods = methods
        self._walked: set[int] = set()
        self._package = ""

    def begin(self, module: str, name: str) -> list[Path]:
        """Walks a function, and returns the file of each stay."""
        self._package = module.partition(".")[0]
        (function,) = self._sources.find(self._sources.modules[module], name)
        self._enter(function, function.module)
        return self.stays

    def _enter(self, function: Function, caller: Module) -> None:
        if id(function.node) in self._walked or not self._leads_on(
            function, caller
        ):
            return
        self._walked.add(id(function.node))
        if self.stays[-1:] != [function.module.path]:
            self.stays.append(function.module.path)
        scope = Scope(self._sources, function)
        body = function.node.body
        for node in body if isinstance(body, list) else [body]:
            self._visit(node, function.module, scope)

    def _leads_on(self, function: Function, caller: Module) -> bool:
        if function.module.name.partition(".")[0] != self._package:
            return False
        return (
            self._methods
            or function.owner is None
            or function.module is caller
            or function.owner in self._sources.line
            or has_decorator(function.node, "classmethod")
            or function.node.name in ("__init__", "__post_init__")
        )

    def _visit(self, node: ast.AST, module: Module, scope: Scope) -> None:
        if isinstance(node, ast.FunctionDef):
            scope.names[node.name] = [Function(module, node, None, scope)]
            return
        if isinstance(node, ast.Call):
            self._call(node, module, scope)
            return
        for child in _in_order(node):
            self._visit(child, module, scope)
            if isinstance(child, ast.comprehension):
                self._bind(child.target, child.iter, module, scope)
        if isinstance(node, ast.Assign):
            for target in node.targets:
                self._bind(target, node.value, module, scope)
        elif isinstance(node, ast.AnnAssign) and isinstance(
            node.target, ast.Name
        ):
            scope.names[node.target.id] = self._sources.annotated(
                node.annotation, module
            )
        elif isinstance(node, ast.NamedExpr):
            self._bind(node.target, node.value, module, scope)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(
            node.ctx, ast.Load
        ):
            found = self._sources.infer(node, module, scope)
            self._enter_all(found, module)

    def _bind(
        self, target: ast.AST, value: ast.AST, module: Module, scope: Scope
    ) -> None:
        found = self._sources.infer(value, module, scope)
        for node in ast.walk(target):
            if isinstance(node, ast.Name):
                scope.names[node.id] = found

    def _call(self, node: ast.Call, module: Module, scope: Scope) -> None:
        if isinstance(node.func, ast.Attribute):
            self._visit(node.func.value, module, scope)
        elif not isinstance(node.func, ast.Name):
            self._visit(node.func, module, scope)
        for child in (*node.args, *node.keywords):
            self._visit(child, module, scope)
        for called in self._sources.infer(node.func, module, scope):
            names = ["__call__"] if isinstance(called, Object) else []
            if isinstance(called, Class):
                names = ["__init__", "__post_init__"]
            held = [v for n in names for v in self._sources.member(called, n)]
            self._enter_all([called, *held], module)

    def _enter_all(self, values: Values, module: Module) -> None:
        for value in values:
            if isinstance(value, Function):
                self._enter(value, module)


def _in_order(node: ast.AST) -> Iterable[ast.AST]:
    """The parts of a node, as Python computes them."""
    children = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.For):
        first = [node.iter, node.target]
        return [*first, *(c for c in children if c not in first)]
    late = ("elt", "key", "value")
    if isinstance(
        node, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp
    ):
        last = [getattr(node, name) for name in late if hasattr(node, name)]
        return [*(c for c in children if c not in last), *last]
    return [c for c in children if not isinstance(c, ast.arguments)]
