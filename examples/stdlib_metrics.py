"""Measure every module of the standard library, on all cores: an example of a whole ipkernel job.

Cyclomatic complexity is McCabe's (A Complexity Measure, IEEE Transactions on Software Engineering
2(4), 1976): decisions + 1, per function. Decisions here: if/elif, conditional expressions, for,
while, except, match cases, comprehension loops and their ifs, and each operand of and/or after
the first. Not counted: else, finally, with, assert, and what nested functions and classes decide.
"""

import os
from pathlib import Path
from time import perf_counter as clock

from report import draw, show

import ipkernel as ipp


def measure(path):
    """Parse one file; return its metrics, or None where it is no valid Python."""
    import ast  # here, because this function runs on the engines
    import warnings
    from collections import Counter

    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    scopes = (*functions, ast.ClassDef, ast.Lambda)
    loops = (ast.For, ast.AsyncFor, ast.While)
    decides = (*loops, ast.If, ast.IfExp, ast.ExceptHandler, ast.match_case)

    def complexity(function):
        count, todo = 1, list(function.body)
        while todo:
            node = todo.pop()
            if isinstance(node, scopes):
                continue
            count += isinstance(node, decides)
            if isinstance(node, ast.comprehension):
                count += 1 + len(node.ifs)
            elif isinstance(node, ast.BoolOp):
                count += len(node.values) - 1
            todo.extend(ast.iter_child_nodes(node))
        return count

    try:
        with open(path, "rb") as file, warnings.catch_warnings(action="ignore"):
            source = file.read()
            nodes = list(ast.walk(ast.parse(source, path)))
    except (SyntaxError, ValueError, OSError, RecursionError):
        return None
    found = [node for node in nodes if isinstance(node, functions)]
    return {
        "lines": len(source.splitlines()),
        "functions": len(found),
        "classes": sum(isinstance(node, ast.ClassDef) for node in nodes),
        "longest": max(((f.end_lineno - f.lineno + 1, f.name) for f in found), default=(0, "")),
        "complex": max(((complexity(f), f.name) for f in found), default=(0, "")),
        "names": Counter(n.id for n in nodes if isinstance(n, ast.Name)).most_common(200),
    }


def main():
    library = os.path.dirname(os.__file__)
    files = sorted(map(str, Path(library).rglob("*.py")))
    paths = [file for file in files if "site-packages" not in file]
    start = clock()
    with ipp.Cluster(n=os.cpu_count()) as rc:
        print(f"{len(paths)} files, {len(rc)} engines, ready after {clock() - start:.2f} s")
        result = rc.load_balanced_view().map_async(measure, paths, chunksize=8, ordered=True)
        result.wait_interactive()
        rows = result.get()
    print("The same once more, serially in this process, to compare ...")
    start = clock()
    alone = [measure(path) for path in paths]
    serial = clock() - start
    show(library, paths, rows, result, serial, same=rows == alone)
    draw(library, paths, result, chunksize=8, picture="demo-run.svg")


if __name__ == "__main__":
    main()
