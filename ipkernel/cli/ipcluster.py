"""``ipcluster``: start, look at, change and stop clusters."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Final

from ipkernel.arguments import natural, span
from ipkernel.cli import common
from ipkernel.cli.parser import Parser, add_version
from ipkernel.cli.settings import add_settings

_DESCRIPTION: Final = """\
Start, look at, change and stop clusters of Python engines.
"""
_EXAMPLES: Final = """\
examples:
  ipcluster start -n 4                 a cluster of 4 engines, until Ctrl-C
  ipcluster start -n 4 --daemonize     the same in the background
  ipcluster status                     its engines and tasks
  ipcluster stop                       end it
  ipcluster list                       all clusters of yours on this host

Then, in Python:
  import ipkernel
  rc = ipkernel.Client()               the cluster called 'default'
  rc[:].apply_sync(os.getpid)

exit codes: 0 done, 1 failed, 2 wrong usage, 3 the cluster is not running, 130 interrupted
"""

_START: Final = """\
Start a controller and engines: on this host, or wherever --engines and --hosts say.

In the foreground it shows what goes on until Ctrl-C stops the cluster; a second Ctrl-C kills
it. If this program is killed, the cluster ends as well. With --daemonize it returns as soon
as all engines are ready, and the cluster runs until 'ipcluster stop'.
"""
_START_EXAMPLES: Final = """\
examples:
  ipcluster start                             one engine for each core
  ipcluster start -n 8 --cluster big          a second cluster, called 'big'
  ipcluster start --hosts node1:8,node2:8     engines on other hosts, by ssh
  ipcluster start -n 8 --daemonize --quiet && python job.py; ipcluster stop
"""
_STOP: Final = """\
Stop a cluster, from any terminal of this host.

Engines and their child processes end as well. What does not end in good order is killed.
"""
_CREATE: Final = """\
Make a cluster: its directory, with a commented file of all options, ipcluster.ini.

The cluster is not started. Settings given here are written to the file. Without it, a cluster
is made by its first start; its options are then those of $IPYTHONDIR/ipcluster.ini.
"""
_CREATE_EXAMPLES: Final = """\
examples:
  ipcluster create --cluster big --hosts node1:8,node2:8
  ipcluster create --cluster gpu --set slots.environment.CUDA_VISIBLE_DEVICES={slot}
  ipcluster start --cluster big
"""
_SHOW: Final = """\
Show a cluster's directory, its options, and whether it runs, here or on another host.
"""
_DELETE: Final = """\
Remove a cluster that does not run: its directory with options, logs and state.
"""
_CONFIG: Final = """\
Show, check and edit options: of one cluster, or of all your clusters.

The command line comes before the environment (IPKERNEL_N, IPKERNEL_SSH_HOSTS), that before
the cluster's ipcluster.ini, that before $IPYTHONDIR/ipcluster.ini.
"""
_CONFIG_SHOW: Final = """\
Show the options of a cluster as they are in effect.
"""
_CONFIG_CHECK: Final = """\
Check the options of a cluster from all places, or one file: exit code 0 if they are right.
"""
_CONFIG_EDIT: Final = """\
Edit a cluster's ipcluster.ini with $VISUAL or $EDITOR.

The old file stays in effect until the new one is right.
"""
_STATUS: Final = """\
Show the controller, the hosts, the engines and the tasks of a cluster.
"""
_EXPLAIN: Final = """\
Say where a task is, why, and how it came there; what an engine does, since when, and what waits for
it; or what is known of a batch job or another program that brings engines.
"""
_EXPLAIN_EXAMPLES: Final = """\
examples:
  ipcluster explain 5497558138881      a task, by its id
  ipcluster explain fit-7              the tasks with a label that have not ended
  ipcluster explain engine 3           an engine; 0-3,7 are several
  ipcluster explain job 17             a job of a batch system, by a word of its name
"""
_LIST: Final = """\
List your clusters on this host.
"""
_ENGINES: Final = """\
Add engines to a running cluster.
"""
_SCALE: Final = """\
Have so many engines in a running cluster.

More are started on its hosts, or by batch jobs if its launcher submits such. Of too many, jobs
that still wait are cancelled first, then engines without work end, then others when they have
finished what they have begun. No task is lost.
"""
_ADAPT: Final = """\
Have as many engines as there are tasks, from MIN to MAX, until Ctrl-C or the end of the cluster.

Engines without work end after a while, with all that was defined on them. When this command
ends, the engines stay as they are.
"""
_SIGNAL: Final = """\
Send a signal, such as INT or USR1, to the engines of a cluster, or to its controller.
"""
_SIGNAL_EXAMPLES: Final = """\
examples:
  ipcluster signal INT                 interrupt what all engines run
  ipcluster signal KILL --engine 3     kill an engine, which is started again
  ipcluster signal TERM --controller   end the cluster in good order
"""
_RESTART: Final = """\
Restart engines. They keep their ids; what they run is lost, or run again if it may be.
"""
_LOGS: Final = """\
Show the logs of a cluster; without a name, which logs there are.

NAME is the name of a log, such as 'ipcontroller' or 'ipdaemon', or 'engine' and an engine id.
"""
_LOGS_EXAMPLES: Final = """\
examples:
  ipcluster logs                       which logs there are
  ipcluster logs ipcontroller -n 100   the last 100 lines of one
  ipcluster logs engine 3 -f           what engine 3 prints, as it comes
"""
_CLEAN: Final = """\
End and remove what crashed clusters have left behind on this host: processes, pid files, the
directories of clusters without a name, half-received files and directories in places for temporary
files, and what ssh launchers of other hosts have put here and do not need. Jobs in queues and
programs on other hosts are ended too, after a question. Directories of named clusters stay, and so
does everything that runs.
"""


_DOCTOR: Final = """\
Look at what a cluster needs, and say what to do where something is wrong: Python and packages,
limits, the cluster's directory and configuration, names and ports, what dead clusters left, the
cluster itself if it runs, and the hosts on which ssh is to start engines: whether one can log in,
what is installed there, and whether they reach the controller. The exit code is 1 if there is a
problem.
"""
_DOCTOR_EXAMPLES: Final = """\
examples:
  ipcluster doctor                     this host, and those of [ssh] if engines use it
  ipcluster doctor --hosts a,me@b      other hosts, before they are written down
  ipcluster doctor --no-hosts          this host only
"""


def make_parser() -> Parser:
    """Return the parser for the command line of ``ipcluster``."""
    parser = Parser(prog="ipcluster", description=_DESCRIPTION, epilog=_EXAMPLES)
    add_version(parser)
    commands = parser.commands(metavar="COMMAND", dest="command", title="commands")

    start = _command(commands, "start", "start a cluster", _START, _START_EXAMPLES)
    start.add_argument("--daemonize", action="store_true", help="return when it is ready")
    start.add_argument(
        "--dry-run", action="store_true", help="only show the commands and scripts it would run"
    )
    add_settings(start)

    stop = _command(commands, "stop", "stop a cluster", _STOP)
    stop.add_argument("--all", action="store_true", help="stop all your clusters on this host")

    status = _command(commands, "status", "show a cluster's engines and tasks", _STATUS)
    _json_options(status)

    explain = _command(
        commands, "explain", "say why a task, an engine or a job waits", _EXPLAIN, _EXPLAIN_EXAMPLES
    )
    explain.add_argument(
        "what", nargs="+", metavar="WHAT", help="TASK, LABEL, 'engine N' or 'job NAME'"
    )
    _json_options(explain)

    every = _command(commands, "list", "list your clusters", _LIST, one=False)
    _json_options(every)

    engines = _command(commands, "engines", "add engines to a cluster", _ENGINES)
    engines.add_argument(
        "-n", "--n", type=common.count, metavar="N", required=True, help="number of engines"
    )

    _change_commands(commands)
    logs = _command(commands, "logs", "show a cluster's logs", _LOGS, _LOGS_EXAMPLES)
    logs.add_argument("name", nargs="*", metavar="NAME", help="which log")
    logs.add_argument("-f", "--follow", action="store_true", help="show more as it comes")
    logs.add_argument(
        "-n",
        "--lines",
        type=natural,
        metavar="N",
        default=20,
        help="lines from the end (default: 20)",
    )

    clean = _command(commands, "clean", "remove what dead clusters left behind", _CLEAN)
    clean.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    clean.add_argument(
        "--jobs", action="store_true", help="end jobs and programs elsewhere without a question"
    )

    doctor = _command(
        commands,
        "doctor",
        "look for what keeps a cluster from working",
        _DOCTOR,
        _DOCTOR_EXAMPLES,
    )
    which = doctor.add_mutually_exclusive_group()
    which.add_argument(
        "--hosts", metavar="HOSTS", help="hosts for ssh, such as a,me@b (default: as configured)"
    )
    which.add_argument("--no-hosts", action="store_true", help="look at no other hosts")
    _json_options(doctor)
    _directory_commands(commands)
    _config_commands(commands)
    return parser


def _change_commands(commands: argparse._SubParsersAction[Parser]) -> None:
    scale = _command(commands, "scale", "have more or fewer engines", _SCALE)
    scale.add_argument("n", type=_count_from_0, metavar="N", help="number of engines")
    scale.add_argument(
        "--limit",
        type=span,
        metavar="TIME",
        default=0.0,
        help="stop engines that work for longer (default: wait for them)",
    )
    scale.add_argument("--now", action="store_true", help="do not let engines finish their tasks")

    adapt = _command(commands, "adapt", "have as many engines as there are tasks", _ADAPT)
    adapt.add_argument("minimum", type=_count_from_0, metavar="MIN", help="so many at least")
    adapt.add_argument("maximum", type=common.count, metavar="MAX", help="so many at most")
    for name, default, text in (
        ("--interval", 2.0, "time between two looks"),
        ("--grow-after", 2.0, "how long there must be too few engines"),
        ("--idle-after", 60.0, "how long an engine must be without work to end"),
    ):
        adapt.add_argument(
            name,
            type=span,
            metavar="TIME",
            default=default,
            help=f"{text} (default: {default:g}s)",
        )
    adapt.add_argument(
        "--tasks-per-engine",
        type=common.positive,
        metavar="N",
        default=1.0,
        help="one engine for so many tasks (default: 1)",
    )

    signal = _command(commands, "signal", "send a signal", _SIGNAL, _SIGNAL_EXAMPLES)
    signal.add_argument("signal", metavar="SIGNAL", help="its name or number")
    target = signal.add_mutually_exclusive_group()
    _engine_option(target)
    target.add_argument("--controller", action="store_true", help="to the controller instead")

    _engine_option(_command(commands, "restart", "restart engines", _RESTART))


def _engine_option(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--engine",
        type=common.engine_ids,
        metavar="IDS",
        help="only these, such as 3 or 0-3,7 (default: all)",
    )


def _count_from_0(text: str) -> int:
    return common.count(text, least=0)


def _directory_commands(commands: argparse._SubParsersAction[Parser]) -> None:
    create = _command(
        commands, "create", "make a cluster, to start later", _CREATE, _CREATE_EXAMPLES
    )
    add_settings(create)
    show = _command(commands, "show", "show a cluster's directory and options", _SHOW)
    _json_options(show)
    delete = _command(commands, "delete", "remove a cluster's directory", _DELETE)
    delete.add_argument("-y", "--yes", action="store_true", help="do not ask")


def _config_commands(commands: argparse._SubParsersAction[Parser]) -> None:
    config = commands.add_parser("config", help="show, check and edit options", description=_CONFIG)
    actions = config.commands(metavar="COMMAND", dest="action", title="commands")
    actions.required = True
    show = _command(actions, "show", "show the options in effect", _CONFIG_SHOW)
    show.add_argument("--origin", action="store_true", help="with where each one comes from")
    show.add_argument("--all", action="store_true", help="those of unused launchers as well")
    _json_options(show)
    check = _command(actions, "check", "check that options are right", _CONFIG_CHECK)
    check.add_argument("file", nargs="?", metavar="FILE", help="check this file only")
    edit = _command(actions, "edit", "edit a file of options", _CONFIG_EDIT)
    edit.add_argument("--user", action="store_true", help="the one of all your clusters")


def _command(
    commands: argparse._SubParsersAction[Parser],
    name: str,
    brief: str,
    description: str,
    examples: str = "",
    *,
    one: bool = True,
) -> Parser:
    parser = commands.add_parser(name, help=brief, description=description, epilog=examples)
    if one:
        common.add_cluster_options(parser)
    common.add_common_options(parser)
    return parser


def _json_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(output="text")
    parser.add_argument("--json", dest="output", action="store_const", const="json", help="as JSON")
    parser.add_argument(
        "-o",
        "--output",
        dest="output",
        choices=("text", "json"),
        help=argparse.SUPPRESS,
    )


#: Where each command is; loaded when it is run.
_COMMANDS: Final = {
    "start": "ipkernel.cli.starting",
    "stop": "ipkernel.cli.stopping",
    "clean": "ipkernel.cli.cleaning",
    "create": "ipkernel.cli.creating",
    "show": "ipkernel.cli.creating",
    "delete": "ipkernel.cli.creating",
    "config": "ipkernel.cli.config",
    "doctor": "ipkernel.cli.doctor",
    "engines": "ipkernel.cli.starting",
    "scale": "ipkernel.cli.changing",
    "adapt": "ipkernel.cli.changing",
    "signal": "ipkernel.cli.changing",
    "restart": "ipkernel.cli.changing",
    "status": "ipkernel.cli.looking",
    "list": "ipkernel.cli.looking",
    "explain": "ipkernel.cli.explaining",
    "logs": "ipkernel.cli.logs",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``ipcluster``.

    Args:
        arguments: Of the command line; by default those of this process.

    Returns:
        The exit code: 0 done, 1 failed, 2 wrong usage, 3 the cluster is not running.
    """
    parser = make_parser()
    options = parser.parse(arguments)
    if options.command is None:
        parser.print_help()
        return common.USAGE
    if options.debug:
        options.log_level = "DEBUG"

    def run() -> int:
        module = import_module(_COMMANDS[options.command])  # here, as Ctrl-C may come meanwhile
        command: Callable[[argparse.Namespace], int]
        command = getattr(module, options.command + "_command")
        return command(options)

    return common.run("ipcluster", run, debug=options.debug)


if __name__ == "__main__":
    sys.exit(main())
