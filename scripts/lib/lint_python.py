"""What scripts/lint asks of Python files, named as arguments: that they parse, use what they import, import what there is from each other, and
fit into 160 columns.  Prints a line for each fault; exits with 1 when there is one."""

import ast
import pathlib
import sys

COLUMNS = 160


def defined(tree):
    """The names that a module offers."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def unused(tree, lines):
    imported = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                imported[(alias.asname or alias.name).split(".")[0]] = node.lineno
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    for name, line in imported.items():
        if name not in used and name != "*" and "noqa: F401" not in lines[line - 1]:
            yield line, f"{name} is imported and not used"


def missing(path, tree, trees):
    """Names that are not in the neighbour they are imported from: the tests find that out when they run, after half an hour."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            neighbour = path.with_name(f"{node.module}.py")
            names = defined(trees[neighbour]) if neighbour in trees else None
            for alias in node.names:
                if names is not None and alias.name not in names and alias.name != "*":
                    yield node.lineno, f"there is no {alias.name} in {neighbour.name}"


def main():
    faults, trees, texts = [], {}, {}
    for path in map(pathlib.Path, sys.argv[1:]):
        texts[path] = path.read_text(encoding="utf-8").splitlines()
        try:
            trees[path] = ast.parse("\n".join(texts[path]), str(path))
        except SyntaxError as e:
            faults.append((path, e.lineno, e.msg))
    for path, tree in trees.items():
        faults += [(path, line, fault) for line, fault in (*unused(tree, texts[path]), *missing(path, tree, trees))]
        faults += [(path, n, f"longer than {COLUMNS} columns") for n, line in enumerate(texts[path], 1) if len(line) > COLUMNS]
    for path, line, fault in faults:
        print(f"{path}:{line}: {fault}")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
