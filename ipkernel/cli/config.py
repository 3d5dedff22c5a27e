"""``ipcluster config``: show, check and edit the options of a cluster."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from ipkernel.arguments import command_words
from ipkernel.cli import common
from ipkernel.cli.tables import number, table
from ipkernel.cluster.cluster import Cluster
from ipkernel.cluster.configuration import FILE, Row, files, load
from ipkernel.cluster.directory import ClusterDirectory, ipython_dir
from ipkernel.cluster.inifile import read_safely
from ipkernel.cluster.making import beside, put_new
from ipkernel.cluster.sources import load_file, misspelt_variables
from ipkernel.cluster.template import setting, template
from ipkernel.errors import ClusterError, ConfigurationError, KernelError

#: The editor if the environment names none.
_EDITOR: Final = "notepad" if os.name == "nt" else "vi"


def config_command(options: argparse.Namespace) -> int:
    """Do what the command behind ``ipcluster config`` says."""
    command = {"show": _show, "check": _check, "edit": _edit}[options.action]
    return command(common.directory_of(options), options)


def _show(directory: ClusterDirectory, options: argparse.Namespace) -> int:
    rows = load(directory).rows(everything=options.all)
    if options.output == "json":
        print(json.dumps(_content(rows, options.origin), indent=1))
        return common.OK
    shown = [(f"{row.section}.{row.option}", _value(row), row.origin) for row in rows]
    if options.origin:
        print(table(("OPTION", "VALUE", "FROM"), shown))
    else:
        print(table(("OPTION", "VALUE"), [row[:2] for row in shown]))
    return common.OK


def _value(row: Row) -> str:
    """Return a value as it stands in a file."""
    if row.value is None or row.value == []:
        return ""
    try:
        return setting(row.option, row.value).partition(" = ")[2]
    except ConfigurationError:
        return repr(row.value)


def _content(rows: list[Row], with_origin: bool) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for row in rows:
        into = content
        for part in row.section.split("."):
            into = into.setdefault(part, {})
        value = row.value if _is_plain(row.value) else repr(row.value)
        into[row.option] = {"value": value, "origin": row.origin} if with_origin else value
    return content


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | list)


def _check(directory: ClusterDirectory, options: argparse.Namespace) -> int:
    paths = [Path(os.path.abspath(options.file))] if options.file else files(directory)
    found = []
    for path in paths:
        values = load_file(path, directory)
        if values is not None:
            found.append((path, len(values)))
        elif options.file:
            raise ConfigurationError(f"there is no file {path}")
    if not options.file:
        load(directory).rows(everything=True)  # the environment, too
        Cluster(cluster_dir=directory.path)  # refuses what contradicts each other
        for variable, meant in misspelt_variables().items():
            sys.stderr.write(
                f"ipcluster: {variable} in the environment is no option; did you mean {meant}?\n"
            )
    if not options.quiet:
        for path, count in found:
            print(f"{path}: {number(count, 'option')} set, all of them right")
        if not found:
            print(f"there is no {' and no '.join(str(path) for path in paths)}: all is by default")
    return common.OK


# -- edit -------------------------------------------------------------------------------------


def _edit(directory: ClusterDirectory, options: argparse.Namespace) -> int:
    """Edit a copy, and put it in the place of the file as soon as it is right."""
    path = Path(os.path.realpath(_edited_file(directory, options.user)))
    before = read_safely(path)
    what = "all your clusters" if options.user else f"cluster {directory.name!r}"
    first = template(what).encode() if before is None else before
    editor = _editor()
    draft = beside(path, first)
    while True:
        _run(editor, draft, first)
        try:
            load_file(draft, directory)
            break
        except KernelError as error:
            sys.stderr.write(f"ipcluster: {str(error).replace(str(draft), str(path))}\n")
        if not _again(draft):
            draft.unlink()
            print(f"{path} is as it was")
            return common.FAILURE
    return _finish(draft, path, before, first, options.quiet)


def _edited_file(directory: ClusterDirectory, user: bool) -> Path:
    if user:
        ipython_dir().mkdir(mode=0o700, parents=True, exist_ok=True)
        return ipython_dir() / FILE
    if not directory.exists:
        raise ClusterError(
            f"there is no cluster {directory.name}: make it with 'ipcluster create', or edit the "
            f"options of all your clusters with 'ipcluster config edit --user'"
        )
    directory.check()
    return directory.path / FILE


def _editor() -> list[str]:
    named = os.environ.get("VISUAL") or os.environ.get("EDITOR") or _EDITOR
    try:
        return command_words(named)
    except ValueError:
        raise ConfigurationError(f"$VISUAL or $EDITOR cannot be understood: {named!r}") from None


def _run(editor: list[str], draft: Path, first: bytes) -> None:
    before = signal.signal(signal.SIGINT, lambda number, frame: None)  # Ctrl-C is the editor's
    try:
        code = subprocess.run([*editor, str(draft)], check=False).returncode
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise ClusterError(
            f"cannot run the editor {editor[0]!r} ({error.strerror}): set $EDITOR to one"
        ) from None
    finally:
        signal.signal(signal.SIGINT, before)
    if not draft.exists():
        raise ClusterError(f"the editor {editor[0]!r} has removed the file")
    if code and draft.read_bytes() == first:
        draft.unlink()
        raise ClusterError(f"the editor {editor[0]!r} failed; the file is as it was")
    if code:
        raise ClusterError(f"the editor {editor[0]!r} failed; what it has left is in {draft}")
    draft.chmod(0o600)  # it may be a new file


def _again(draft: Path) -> bool:
    if not sys.stdin.isatty():
        raise ClusterError(f"the file was left as it was; the edited text is in {draft}")
    try:
        return input("edit it again? [Y/n] ").strip().lower() not in ("n", "no")
    except (EOFError, KeyboardInterrupt):
        print()
        return False


def _finish(draft: Path, path: Path, before: bytes | None, first: bytes, quiet: bool) -> int:
    said = f"{path} has changed"
    if draft.read_bytes() == first and before is not None:
        draft.unlink()
        said = f"{path} is as it was"
    elif before is None:
        put_new(draft, path)
    elif read_safely(path) != before:
        raise ClusterError(f"somebody has changed {path} meanwhile; the edited text is in {draft}")
    else:
        draft.replace(path)
    if not quiet:
        print(said)
    return common.OK
