"""Finds what a name or an expression of the packages stands for.

It reads sources only. An expression stands for modules, classes, functions and
objects of known classes; `support.stays` says how a class becomes known.
"""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

Values = list[Any]


class Module(NamedTuple):
    """A file: what its names stand for."""

    name: str
    path: Path
    nodes: dict[str, ast.AST]
    imports: dict[str, str]


class Class(NamedTuple):
    """A class and the module that defines it."""

    module: Module
    node: ast.ClassDef


class Object(NamedTuple):
    """A value of a known class."""

    kind: Class


class Function(NamedTuple):
    """A function, the class that holds it, and the names around it."""

    module: Module
    node: ast.FunctionDef | ast.Lambda
    owner: Class | None
    outer: "Scope | None"


class Scope:
    """The names inside of one function."""

    def __init__(self, sources: "Sources", function: Function) -> None:
        self.function = function
        self.names: dict[str, Values] = dict(
            function.outer.names if function.outer else {}
        )
        arguments = function.node.args
        every = (
            *arguments.posonlyargs,
            *arguments.args,
            *arguments.kwonlyargs,
        )
        for argument in every:
            self.names[argument.arg] = sources.annotated(
                argument.annotation, function.module
            )
        if function.owner and arguments.args:
            first = arguments.args[0].arg
            self.names[first] = [
                function.owner if first == "cls" else Object(function.owner)
            ]


class Sources:
    """Finds what an expression stands for, from the sources alone."""

    def __init__(self, files: Mapping[str, Path], via: str = "") -> None:
        self.modules = {name: _read(name, p) for name, p in files.items()}
        self._fields: dict[tuple[int, str], Values] = {}
        self.line = self._line_of(via)  # The class of `via` and its bases.

    def find(self, module: Module, name: str) -> Values:
        """What a name of a module stands for."""
        node = module.nodes.get(name)
        if isinstance(node, ast.ClassDef):
            return [Class(module, node)]
        if isinstance(node, ast.FunctionDef):
            return [Function(module, node, None, None)]
        if node is not None:
            return self.infer(node, module, None)
        if name in module.imports:
            return self.dotted(module.imports[name])
        return []

    def dotted(self, name: str) -> Values:
        """What an imported name stands for."""
        if name in self.modules:
            return [self.modules[name]]
        holder, _, last = name.rpartition(".")
        if holder in self.modules:
            return self.find(self.modules[holder], last)
        return []

    def annotated(self, node: ast.AST | None, module: Module) -> Values:
        """Objects of all classes that an annotation names."""
        if node is None:
            return []
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node = ast.parse(node.value, mode="eval").body
        if isinstance(node, ast.Name | ast.Attribute):
            found = self.infer(node, module, None)
            return [Object(v) for v in found if isinstance(v, Class)]
        return [
            value
            for child in ast.iter_child_nodes(node)
            for value in self.annotated(child, module)
        ]

    def infer(
        self, node: ast.AST, module: Module, scope: Scope | None
    ) -> Values:
        """What an expression stands for; empty if that is unknown."""
        if isinstance(node, ast.Name):
            if scope and node.id in scope.names:
                return scope.names[node.id]
            return self.find(module, node.id)
        if isinstance(node, ast.Attribute):
            held = self.infer(node.value, module, scope)
            return [v for h in held for v in self.member(h, node.attr)]
        if isinstance(node, ast.Call):
            return self._result(node, module, scope)
        if isinstance(node, ast.Constant | ast.JoinedStr | ast.Compare):
            return []
        if isinstance(node, ast.Subscript | ast.Starred | ast.NamedExpr):
            return self.infer(node.value, module, scope)
        if isinstance(node, ast.ListComp | ast.GeneratorExp | ast.SetComp):
            return self.infer(node.elt, module, scope)
        return [
            value
            for child in ast.iter_child_nodes(node)
            for value in self.infer(child, module, scope)
        ]

    def _result(
        self, node: ast.Call, module: Module, scope: Scope | None
    ) -> Values:
        results: Values = []
        for called in self.infer(node.func, module, scope):
            if isinstance(called, Class):
                results.append(Object(called))
            elif isinstance(called, Function) and isinstance(
                called.node, ast.FunctionDef
            ):
                results += self.annotated(called.node.returns, called.module)
        if results or not isinstance(node.func, ast.Name):
            return results
        if node.func.id == "super" and scope and scope.function.owner:
            bases = self.bases(scope.function.owner)
            return [Object(base) for base in bases]
        # sorted(x), enumerate(x), zip(x, y): what they are given.
        return [v for a in node.args for v in self.infer(a, module, scope)]

    def bases(self, kind: Class) -> list[Class]:
        """The base classes that the packages define."""
        found = [
            value
            for base in kind.node.bases
            for value in self.infer(base, kind.module, None)
        ]
        return [base for base in found if isinstance(base, Class)]

    def member(self, held: Any, name: str) -> Values:
        """What `held.name` stands for."""
        if isinstance(held, Module):
            inner = f"{held.name}.{name}"
            if name not in held.nodes and inner in self.modules:
                return [self.modules[inner]]
            return self.find(held, name)
        kind = held.kind if isinstance(held, Object) else held
        if not isinstance(kind, Class):
            return []
        if isinstance(held, Object) and kind in self.line:
            kind = self.line[0]
        return self._method(kind, name) or self._field(kind, name)

    def _line_of(self, via: str) -> list[Class]:
        for module in self.modules.values():
            for node in module.nodes.values():
                if isinstance(node, ast.ClassDef) and _is_called(node, via):
                    line = [Class(module, node)]
                    for kind in line:
                        line += self.bases(kind)
                    return line if len(line) > 1 else []
        return []

    def _method(self, kind: Class, name: str) -> Values:
        for node in kind.node.body:
            if isinstance(node, ast.FunctionDef) and node.name == name:
                if has_decorator(node, "property"):
                    return self.annotated(node.returns, kind.module)
                return [Function(kind.module, node, kind, None)]
        for base in self.bases(kind):
            if found := self._method(base, name):
                return found
        return []

    def _field(self, kind: Class, name: str) -> Values:
        key = (id(kind.node), name)
        if key not in self._fields:
            self._fields[key] = []  # A field may be defined by itself.
            self._fields[key] = list(self._field_values(kind, name))
            for base in self.bases(kind):
                self._fields[key] += self._field(base, name)
        return self._fields[key]

    def _field_values(self, kind: Class, name: str) -> Iterator[Any]:
        for node in kind.node.body:
            if isinstance(node, ast.AnnAssign) and _is_name(node.target, name):
                yield from self.annotated(node.annotation, kind.module)
            if isinstance(node, ast.FunctionDef):
                yield from self._assigned(kind, node, name)

    def _assigned(
        self, kind: Class, method: ast.FunctionDef, name: str
    ) -> Iterator[Any]:
        """What a method assigns to `self.name`."""
        scope = Scope(self, Function(kind.module, method, kind, None))
        for node in ast.walk(method):
            if isinstance(node, ast.Assign) and any(
                isinstance(target, ast.Attribute) and target.attr == name
                for target in node.targets
            ):
                yield from self.infer(node.value, kind.module, scope)


def has_decorator(node: ast.AST, decorator: str) -> bool:
    return isinstance(node, ast.FunctionDef) and any(
        decorator in ast.unparse(each) for each in node.decorator_list
    )


def _is_called(node: ast.ClassDef, name: str) -> bool:
    """Whether the class has the attribute `name` with this value."""
    for each in node.body:
        if isinstance(each, ast.Assign):
            left, right = each.targets[0], each.value
            pairs = [(left, right)]
            if isinstance(left, ast.Tuple) and isinstance(right, ast.Tuple):
                pairs = list(zip(left.elts, right.elts, strict=True))
            for target, value in pairs:
                if _is_name(target, "name") and isinstance(value, ast.Constant):
                    return value.value == name
    return False


def _is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _read(name: str, path: Path) -> Module:
    tree = ast.parse(path.read_text())
    nodes: dict[str, ast.AST] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            nodes[node.name] = node
        elif isinstance(node, ast.Assign) and isinstance(
            node.targets[0], ast.Name
        ):
            nodes[node.targets[0].id] = node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            nodes[ast.unparse(node.target)] = node.value
    imported: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                imported[alias.asname or alias.name] = (
                    f"{node.module}.{alias.name}"
                )
        elif isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                imported[alias.asname or top] = (
                    alias.name if alias.asname else top
                )
    return Module(name, path, nodes, imported)
