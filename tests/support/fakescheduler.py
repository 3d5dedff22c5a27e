"""Stands in for the commands ``job`` of HPC Pack and ``xgrid``, which run nowhere but at home.

``python fakescheduler.py <directory> job|xgrid <arguments>``: keeps in the directory, byte for byte,
with what it was called and what it was given, and runs the command lines of jobs here. What it says
has the form that the manuals of the real ones show.
"""

from __future__ import annotations

import json
import os
import plistlib
import shlex
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

SPACE = "{http://schemas.microsoft.com/HPCS2008/scheduler/}"


def main() -> int:
    directory, kind, *arguments = sys.argv[1:]
    place = Path(directory)
    with (place / "calls").open("ab") as calls:
        calls.write(b"\0".join(map(os.fsencode, arguments)) + b"\0\n")
    return (as_job if kind == "job" else as_xgrid)(place, arguments)


def as_job(place: Path, arguments: list[str]) -> int:
    verb, what, *_ = arguments
    if verb == "submit":
        document = Path(what.removeprefix("/jobfile:"))
        number = keep(place, document)
        task = ElementTree.parse(document).getroot().find(f"{SPACE}Tasks/{SPACE}Task")
        run(place, number, shlex.split(task.get("CommandLine")), CCP_JOBID=number)
        print(f"Job has been submitted. ID: {number}.")
    elif not (place / f"{what}.pid").exists():
        print(f"The specified Job ID {what} does not exist.")
        return 1
    elif verb == "view":
        state = "Running" if alive(place, what) else "Finished"
        print(
            f"Job ID                          : {what}\nState                           : {state}"
        )
    else:
        stop(place, what)
        print("The job has been canceled.")
    return 0


def as_xgrid(place: Path, arguments: list[str]) -> int:
    verb, what = arguments[arguments.index("-job") + 1], arguments[-1]
    if verb == "batch":
        document = Path(what)
        number = keep(place, document)
        tasks = plistlib.loads(document.read_bytes())["jobSpecification"]["taskSpecifications"]
        run(place, number, [tasks["0"]["command"], *tasks["0"]["arguments"]])
        print(f"{{\n    jobIdentifier = {number};\n}}")
    elif not (place / f"{what}.pid").exists():
        print("{\n    error = InvalidJobIdentifier;\n}")
    elif verb == "attributes":
        status = "Running" if alive(place, what) else "Finished"
        print(
            "{\n    jobAttributes =     {\n        activeCPUPower = 0;\n"
            '        applicationIdentifier = "org.ipkernel";\n'
            f"        jobStatus = {status};\n        taskCount = 1;\n    }};\n}}"
        )
    else:
        stop(place, what)
        print("{\n}")
    return 0


def keep(place: Path, document: Path) -> str:
    number = str(1 + len(list(place.glob("*.document"))))
    (place / f"{number}.document").write_bytes(document.read_bytes())
    return number


def run(place: Path, number: str, words: list[str], **more: str) -> None:
    process = subprocess.Popen(
        words,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **more},
        start_new_session=True,
    )
    (place / f"{number}.pid").write_text(json.dumps(process.pid))


def pid_of(place: Path, number: str) -> int:
    return int((place / f"{number}.pid").read_text())


def alive(place: Path, number: str) -> bool:
    try:
        fields = Path(f"/proc/{pid_of(place, number)}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] != "Z"


def stop(place: Path, number: str) -> None:
    try:
        os.kill(pid_of(place, number), signal.SIGTERM)
    except ProcessLookupError:
        pass


if __name__ == "__main__":
    sys.exit(main())
