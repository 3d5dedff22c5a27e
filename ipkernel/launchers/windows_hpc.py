"""Launch through the job scheduler of Microsoft HPC Pack: the command ``job``, and job files in XML.

The elements and attributes are those of the published schema for job files, in the namespace that all
versions of HPC Pack take.
"""

from __future__ import annotations

import re
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from zope.interface import implementer, provider

from ipkernel.launchers.batchoptions import Option, common_options, specification
from ipkernel.launchers.batchsystem import Answer, BatchSystem, Job, JobState, QueryFailed
from ipkernel.launchers.described import DescribedController, DescribedHost, DescribingSystem
from ipkernel.launchers.interfaces import ILauncher, ILauncherClass
from ipkernel.launchers.jobfiles import JobFiles

NAMESPACE: Final = "http://schemas.microsoft.com/HPCS2008/scheduler/"
_ID: Final = re.compile(r"\bID:\s*(\d+)", re.IGNORECASE)
_FIELD: Final = re.compile(r"^\s*([A-Za-z][A-Za-z ]*?)\s*:[ \t]*(.*?)\s*$", re.MULTILINE)
_PENDING: Final = {
    "Configuring": "it is being made",
    "Submitted": "",
    "Validating": "it is being validated",
    "ExternalValidation": "it is being validated",
    "Queued": "",
}
_ATTRIBUTE: Final = re.compile(r"([A-Za-z]+)\s*=\s*(.*)\Z")


class WindowsHPC(DescribingSystem):
    """How to talk to HPC Pack; see :class:`~ipkernel.launchers.batchsystem.BatchSystem`."""

    section: ClassVar[str] = "windows_hpc"
    title: ClassVar[str] = "HPC Pack"
    suffix: ClassVar[str] = ".xml"
    job_variable: ClassVar[str] = "CCP_JOBID"
    option_list: ClassVar[tuple[Option, ...]] = (
        *common_options("job submit", "job view", "job cancel"),
        Option("scheduler", "string", "", "Head node; empty: the one that HPC Pack knows here."),
        Option(
            "priority", "option('Lowest', 'BelowNormal', 'Normal', 'AboveNormal', 'Highest')",
            "Normal", "Priority of the jobs.",
        ),
    )  # fmt: skip

    def __init__(self, given: Mapping[str, Any]) -> None:
        super().__init__(given)
        for line in self.options["extra"]:
            if _ATTRIBUTE.match(line) is None:
                raise self.options.wrong(
                    "extra", "write attributes of the job such as 'JobTemplate=Default'"
                )

    def describe(self, job: Job, words: list[str], files: JobFiles) -> str:
        """Return the job file: one job with one task."""
        cores = str(job.cpus)
        options = job.options
        size = {"UnitType": "Core", "MinCores": cores, "MaxCores": cores}
        limit = {"RuntimeSeconds": str(options.walltime)} if options.walltime else {}
        chosen = {
            "Version": "2.000",
            "Name": job.name,
            **size,
            **limit,
            "Priority": options["priority"],
            "Project": options["account"],
            "NodeGroups": options["queue"],
        }
        for line in options["extra"]:
            name, _, value = line.partition("=")
            chosen[name.strip()] = value.strip()
        root = _element("Job", {name: value for name, value in chosen.items() if value})
        ElementTree.SubElement(root, _name("Dependencies"))
        tasks = ElementTree.SubElement(root, _name("Tasks"))
        task = {
            "Name": job.program,
            **size,
            **limit,
            "CommandLine": subprocess.list2cmdline(words),
            "StdOutFilePath": str(files.spooled),
            "StdErrFilePath": str(files.spooled),
            "WorkDirectory": str(files.directory),
            "IsRerunnable": "false",
        }
        ElementTree.SubElement(tasks, _name("Task"), task)
        ElementTree.register_namespace("", NAMESPACE)
        ElementTree.indent(root)
        text = ElementTree.tostring(root, encoding="unicode")
        return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'

    def submit(self, script: Path) -> list[str]:
        """Return the ``job submit`` command."""
        return [*self.options.submit, f"/jobfile:{script}", *self._where]

    def read_job(self, answer: Answer) -> str:
        """Return the id, from ``Job has been submitted. ID: 17.``."""
        found = _ID.search(answer.out)
        if found is None:
            raise ValueError(f"it did not say which job it submitted: {answer.complaint}")
        return found[1]

    def ask(self, job: str) -> list[str]:
        """Return the ``job view`` command."""
        return [*self.options.query, job, *self._where]

    def read_one(self, job: str, code: int, text: str) -> JobState | None:
        """Return the state that ``job view`` tells."""
        fields = {name.lower(): value for name, value in _FIELD.findall(text)}
        state = fields.get("state", "")
        if code or not state:
            if "does not exist" in text or "not found" in text.lower():
                return None
            raise QueryFailed(Answer(code, text).complaint)
        if state in _PENDING:
            return JobState("pending", fields.get("pending reason", "") or _PENDING[state])
        if state == "Running":
            return JobState("running", fields.get("allocated nodes", ""))
        if state in ("Finishing", "Canceling"):
            return JobState("ending")
        if state == "Finished":
            return JobState.exited(0)
        if state == "Canceled":
            return JobState("ended", "was cancelled")
        if state == "Failed":
            why = fields.get("error message") or fields.get("message", "")
            return JobState("ended", f"failed: {why}" if why else "failed", 1)
        return JobState("pending", f"in state {state}")

    def cancel(self, jobs: Sequence[str]) -> list[list[str]]:
        """Return the ``job cancel`` commands."""
        return [[*self.options.cancel, job, *self._where] for job in jobs]

    def kill(self, jobs: Sequence[str]) -> list[list[str]]:
        """Return ``job cancel`` commands that leave the tasks no time."""
        return [[*command, "/force"] for command in self.cancel(jobs)]

    @property
    def _where(self) -> list[str]:
        head = self.options["scheduler"]
        return [f"/scheduler:{head}"] if head else []


def _name(tag: str) -> str:
    return f"{{{NAMESPACE}}}{tag}"


def _element(tag: str, attributes: dict[str, str]) -> ElementTree.Element:
    return ElementTree.Element(_name(tag), attributes)


@implementer(ILauncher)
@provider(ILauncherClass)
class WindowsHPCControllerLauncher(DescribedController):
    """A controller as a job of HPC Pack."""

    system_class: ClassVar[type[BatchSystem]] = WindowsHPC
    SPEC: ClassVar[str] = specification(WindowsHPC.option_list)


@implementer(ILauncher)
@provider(ILauncherClass)
class WindowsHPCHostLauncher(DescribedHost):
    """A host daemon, with its engines, as a job of HPC Pack."""

    system_class: ClassVar[type[BatchSystem]] = WindowsHPC
    SPEC: ClassVar[str] = specification(WindowsHPC.option_list)
