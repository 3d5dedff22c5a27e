"""``ipcluster explain``: why a task, an engine or a job is where it is."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from ipkernel.cli import common
from ipkernel.cli.tables import harmless, number, table
from ipkernel.cluster import monitoring
from ipkernel.cluster.jobstories import JobStory, job_stories
from ipkernel.ranges import ranges_text
from ipkernel.wire.records import EngineStory, TaskQuery, TaskStories, TaskStory

if TYPE_CHECKING:
    from ipkernel.cluster.directory import ClusterDirectory

#: Tasks of one label of which more than a line is told.
_IN_FULL: Final = 3


def explain_command(options: argparse.Namespace) -> int:
    """Say why something is where it is."""
    directory = common.running_directory(options)
    words: list[str] = options.what
    if words[0] == "engine" and len(words) == 2:
        return _engines(options, directory, words[1])
    if words[0] == "job" and len(words) == 2:
        return _jobs(options, directory, words[1])
    if len(words) == 1:
        return _tasks(options, directory, words[0])
    print("ipcluster: explain takes TASK, LABEL, 'engine N' or 'job NAME'", file=sys.stderr)
    return common.USAGE


def _ask(directory: ClusterDirectory, query: TaskQuery) -> TaskStories:
    return monitoring.ask(
        directory, f"asking cluster {directory.name}", "explain", query, TaskStories
    )


def _tasks(options: argparse.Namespace, directory: ClusterDirectory, what: str) -> int:
    by_id = what.isascii() and what.isdigit() and int(what) >> 62 == 0
    query = TaskQuery(tasks=[int(what)]) if by_id else TaskQuery(label=what[:256])
    stories = _ask(directory, query).stories
    if by_id and stories and stories[0].state == "unknown":  # a label may be a number, too
        stories = _ask(directory, TaskQuery(label=what[:256])).stories or stories
    if not stories:
        return _nothing(options, f"no task with the label {what!r} is open")
    _show(options, stories, describe_tasks(stories))
    return common.OK if any(story.state != "unknown" for story in stories) else common.FAILURE


def _engines(options: argparse.Namespace, directory: ClusterDirectory, given: str) -> int:
    try:
        engines = common.engine_ids(given)
    except argparse.ArgumentTypeError as error:
        print(f"ipcluster: {error}", file=sys.stderr)
        return common.USAGE
    stories = _ask(directory, TaskQuery(engines=[*engines])).engines
    _show(options, stories, "\n\n".join(describe_engine(story) for story in stories))
    return common.OK if any(story.state != "unknown" for story in stories) else common.FAILURE


def _jobs(options: argparse.Namespace, directory: ClusterDirectory, name: str) -> int:
    stories = job_stories(name, monitoring.status(directory), directory)
    if not stories:
        return _nothing(
            options, f"nothing is known of a job {name!r}; 'ipcluster status' names those there are"
        )
    _show(options, stories, "\n\n".join(describe_job(story) for story in stories))
    return common.OK


def _nothing(options: argparse.Namespace, why: str) -> int:
    if options.output == "json":
        print("[]")
    print(f"ipcluster: {harmless(why)}", file=sys.stderr)
    return common.FAILURE


def _show(options: argparse.Namespace, stories: Sequence[Any], text: str) -> None:
    if options.output == "json":
        import msgspec

        plain = [s._asdict() if isinstance(s, JobStory) else s for s in stories]
        print(json.dumps(msgspec.to_builtins(plain), indent=1))
    else:
        print(harmless(text))


def describe_tasks(stories: Sequence[TaskStory]) -> str:
    """Return what is told of tasks: all of it for a few, a table for many."""
    if len(stories) <= _IN_FULL:
        return "\n\n".join(_describe_task(story) for story in stories)
    states: dict[str, int] = {}
    for story in stories:
        states[story.state] = states.get(story.state, 0) + 1
    head = f"{number(len(stories), 'task')}: "
    head += ", ".join(f"{count} {state}" for state, count in states.items())
    rows = [
        (story.task, story.state, story.engine if story.engine >= 0 else "-", story.reason)
        for story in stories
    ]
    return f"{head}\n\n{table(('TASK', 'STATE', 'ENGINE', 'REASON'), rows)}"


def _describe_task(story: TaskStory) -> str:
    where = f", engine {story.engine}" if story.engine >= 0 else ""
    lines = [f"task {story.task}: {story.state}{where}", f"  {story.reason}"]
    return "\n".join([*lines, *(f"  {step}" for step in story.story)])


def describe_engine(story: EngineStory) -> str:
    """Return what is told of an engine."""
    place = f" on {story.host}" if story.host else ""
    pid = f" (pid {story.pid})" if story.pid else ""
    lines = [f"engine {story.engine}{place}{pid}: {story.state}", f"  {story.reason}"]
    if story.running:
        lines.append(f"  running  {ranges_text(story.running)}")
    if story.count:
        more = story.count - len(story.queued)
        rest = f", and {more} more" if more > 0 else ""
        lines.append(f"  waiting  {number(story.count, 'task')}: {ranges_text(story.queued)}{rest}")
    return "\n".join([*lines, *(f"  {step}" for step in story.story)])


def describe_job(story: JobStory) -> str:
    """Return what is told of a program that brings engines."""
    lines = [f"{story.job}: {story.state}"]
    if story.reason:
        lines.append(f"  {story.reason}")
    if story.engines:
        lines.append(f"  engines  {ranges_text(story.engines)}")
    return "\n".join([*lines, *(f"    {line}" for line in story.lines)])
