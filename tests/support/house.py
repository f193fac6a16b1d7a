"""Counts rooms, floors and imports of a package, and the stays of a function.

Run it: `python tests/support/house.py [--root DIR] [--stays FILE:FUNCTION]`.
It reads sources only and imports neither package. The definitions:

- Room: a file at the top of a package, or a folder there with all its files.
  A file that imports nothing of the package and is imported by nothing is no
  room: it is a script of another process.
- Import: a pair of two rooms of one package, of which the first imports
  anything of the second. Imports inside of functions and those for type
  checkers count too. `from package.x import y` is an import of the module
  `package.x.y` if there is one, and of `package.x` otherwise.
- Circle: a set of files, each of which reaches all others by imports.
- Floor: 1 + the highest floor that a room imports. Between the rooms of a
  circle, imports inside of functions are left out; rooms that still form a
  circle share a floor.
- Upward import: an import that leads to the same or a higher floor.
- Stay: see `support.stays`.

At commit 2be3931 this gives 46 rooms, 16 floors and 161 imports for
`tflite_export`, and 31 rooms, 14 floors and 96 imports for `codeq_keras`.
Each package had one circle; three and one imports led upward.
"""

import argparse
import ast
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

PACKAGES = ("tflite_export", "codeq_keras")
ROOT = Path(__file__).parents[2]


class Import(NamedTuple):
    """One file imports another, perhaps only inside of a function."""

    source: Path
    target: Path
    name: str
    is_late: bool


class House(NamedTuple):
    """What is counted of a package."""

    rooms: list[str]
    floors: dict[str, int]
    imports: set[tuple[str, str]]
    circles: list[list[str]]
    upward: list[tuple[str, str]]


def modules(root: Path, package: str) -> dict[str, Path]:
    """Returns the files of a package by module name."""
    files = {}
    for path in sorted((root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        files[".".join(parts)] = path
    return files


def imports(root: Path, source: str, target: str) -> list[Import]:
    """Returns all imports of the package `target` in the package `source`."""
    files = modules(root, target)
    found = []
    for path in modules(root, source).values():
        for name, is_late in _imported_names(ast.parse(path.read_text())):
            module = name
            while module and module not in files:
                module = module.rpartition(".")[0]
            if module and files[module] != path:
                found.append(Import(path, files[module], name, is_late))
    return found


def _imported_names(
    node: ast.AST, is_late: bool = False
) -> Iterable[tuple[str, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, is_late) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            for alias in child.names:
                yield f"{child.module}.{alias.name}", is_late
        inside = isinstance(child, ast.FunctionDef)
        yield from _imported_names(child, is_late or inside)


def room(root: Path, path: Path) -> str:
    """Returns the room of a file: its name, or that of its top folder."""
    return path.relative_to(root).parts[1]


def circles(pairs: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Returns the sets of names that reach each other."""
    reached = _reached(pairs)
    sets = {
        tuple(sorted(b for b in reached[a] if a in reached.get(b, ())))
        for a in reached
        if a in reached[a]
    }
    return sorted(map(list, sets))


def _reached(pairs: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    graph: dict[str, set[str]] = {}
    for a, b in pairs:
        graph.setdefault(a, set()).add(b)
    reached = {}
    for start in graph:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            new = graph.get(waiting.pop(), set()) - seen
            seen |= new
            waiting.extend(new)
        reached[start] = seen
    return reached


def _floors(
    rooms: list[str], pairs: set[tuple[str, str]], late: set[tuple[str, str]]
) -> dict[str, int]:
    """Lifts rooms until each stands above all that it imports."""
    tied = {
        (a, b) for loop in circles(pairs) for a in loop for b in loop if a != b
    }
    pairs = pairs - (tied & late)
    same_floor = circles(pairs)
    shared = {name: loop for loop in same_floor for name in loop}
    floors = dict.fromkeys(rooms, 1)
    is_done = False
    while not is_done:
        is_done = True
        for a, b in pairs:
            if b in shared.get(a, ()):
                continue
            if floors[a] <= floors[b]:
                is_done = False
                for name in shared.get(a, [a]):
                    floors[name] = floors[b] + 1
    return floors


def house(root: Path, package: str) -> House:
    """Counts a package."""
    found = imports(root, package, package)
    pairs, early = set(), set()
    for each in found:
        pair = (room(root, each.source), room(root, each.target))
        if pair[0] != pair[1]:
            pairs.add(pair)
            if not each.is_late:
                early.add(pair)
    all_rooms = {room(root, p) for p in modules(root, package).values()}
    tied = {name for pair in pairs for name in pair}
    rooms = sorted(
        name for name in all_rooms if name in tied or "." not in name
    )
    floors = _floors(rooms, pairs, pairs - early)
    by_file = circles(
        (
            each.source.relative_to(root).as_posix(),
            each.target.relative_to(root).as_posix(),
        )
        for each in found
    )
    upward = sorted(p for p in pairs if floors[p[0]] <= floors[p[1]])
    return House(rooms, floors, pairs, by_file, upward)


def main() -> None:
    """Prints what is counted of both packages, or of one function."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", type=Path, default=ROOT)
    parser.add_argument("--stays", metavar="FILE:FUNCTION")
    parser.add_argument("--via", default="litert", help="the concrete target")
    parser.add_argument("--methods", action="store_true")
    given = parser.parse_args()
    root = given.root.resolve()
    if given.stays:
        lines = stay_lines(root, given.stays, given.via, given.methods)
    else:
        lines = [line for each in PACKAGES for line in house_lines(root, each)]
    sys.stdout.write("\n".join(lines) + "\n")


def house_lines(root: Path, package: str) -> list[str]:
    """The counts of a package, its faults, and the floor of each room."""
    counted = house(root, package)
    highest_first = sorted(
        counted.rooms, key=lambda name: (-counted.floors[name], name)
    )
    return [
        f"{package}: {len(counted.rooms)} rooms, "
        f"{max(counted.floors.values())} floors, "
        f"{len(counted.imports)} imports, {len(counted.circles)} circles, "
        f"{len(counted.upward)} upward imports",
        *(f"  circle: {', '.join(loop)}" for loop in counted.circles),
        *(f"  upward: {a} -> {b}" for a, b in counted.upward),
        *(f"  {counted.floors[name]:3}  {name}" for name in highest_first),
    ]


def count_stays(
    root: Path, start: str, *, via: str = "litert", methods: bool = False
) -> Counter[str]:
    """How often a walk from `start`, a `FILE:FUNCTION`, stays in each file."""
    from support.sources import Sources
    from support.stays import Walk

    file, _, name = start.partition(":")
    package, *parts = Path(file).with_suffix("").parts
    packages = {package, *PACKAGES}
    files = {n: p for each in packages for n, p in modules(root, each).items()}
    walk = Walk(Sources(files, via), methods=methods)
    stays = walk.begin(".".join([package, *parts]), name)
    return Counter(path.relative_to(root).as_posix() for path in stays)


def stay_lines(root: Path, start: str, via: str, methods: bool) -> list[str]:
    """The number of stays, and the files that are visited most."""
    visits = count_stays(root, start, via=via, methods=methods)
    return [
        f"{start}: {visits.total()} stays in {len(visits)} files",
        *(f"  {number:3}  {path}" for path, number in visits.most_common(12)),
    ]


if __name__ == "__main__":
    # Only the folder of this file is on the path of a script.
    sys.path.append(str(ROOT / "tests"))
    main()
