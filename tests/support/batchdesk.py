"""A batch system that is not there, and launchers that take it for Slurm."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.launchers.batchsystem import Answer
from ipkernel.launchers.jobqueue import JobQueue
from ipkernel.launchers.slurm import SlurmHostLauncher

__all__ = ["COMPLETED", "PENDING", "RUNNING", "directory", "make_scene", "scene", "write_output"]


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Desk:
    """Stands for a batch system: remembers commands, and gives the answers it is told to."""

    def __init__(self):
        self.commands = []
        self.submitted = Answer(0, "17\n")
        self.states = {}
        self.broken = ""
        self.missing = set()
        self.accounting = ""

    def __call__(self, command, environment=None, patience=60.0):
        self.commands.append([*command])
        if command[0] in self.missing:
            raise FileNotFoundError(2, "No such file or directory", command[0])
        if command[0] == "sbatch":
            self.environment = environment
            return self.submitted
        if command[0] == "squeue":
            if self.broken:
                return Answer(1, "", self.broken)
            lines = [f"{job}|{'|'.join(fields)}|" for job, fields in self.states.items()]
            return Answer(0, "\n".join(lines))
        if command[0] == "sacct" and self.accounting:
            return Answer(0, self.accounting)
        return Answer(1, "", "not here")

    def said(self, name):
        return [command for command in self.commands if command[0] == name]


@pytest.fixture
def directory(tmp_path):
    return ClusterDirectory(tmp_path / "cluster_x y").create()


@pytest.fixture
def scene(directory):
    return make_scene(directory)


def make_scene(directory):
    desk, clock = Desk(), Clock()
    queues = {}

    def make(launcher_class=SlurmHostLauncher, *arguments, **keywords):
        launcher = launcher_class(directory, arguments, **keywords)
        key = repr(launcher.options)
        if key not in queues:
            queues[key] = JobQueue(launcher.system, desk, clock, begin=lambda run, name: None)
        launcher.queue = queues[key]
        return launcher

    return SimpleNamespace(desk=desk, clock=clock, make=make)


def write_output(launcher, *events, rest=b""):
    with launcher.files.output.open("ab") as file:
        for event in events:
            file.write(json.dumps(event).encode() + b"\n")
        file.write(rest)


RUNNING = ("RUNNING", "None", "n1", "0")
PENDING = ("PENDING", "Resources", "", "0")
COMPLETED = ("COMPLETED", "None", "n1", "0")
