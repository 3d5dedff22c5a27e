"""Commands that behave as those of LSF and HTCondor do, for one machine: jobs run at once.

Neither can be had as a package for these tests. What is sent to them byte by byte, and what their
real answers mean, is tested in ``tests/unit/test_launchers_lsf.py`` and ``..._htcondor.py``; here
their commands only run jobs, so that clusters of jobs can be tried out as a whole.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

_COMMON = """\
import json, os, re, signal, subprocess, sys
HOME = {home!r}

def new_id():
    number = 1
    while True:
        try:
            os.close(os.open(f"{{HOME}}/{{number}}.id", os.O_CREAT | os.O_EXCL))
            return str(number)
        except FileExistsError:
            number += 1

def begin(number, words, out, err, **environment):
    with open(out, "ab") as output, open(err, "ab") as errors:
        # A parent that waits keeps how it ended.
        keeper = (
            "import os, subprocess, sys; p = subprocess.Popen(sys.argv[2:], start_new_session=True); "
            "open(sys.argv[1] + '.new', 'w').write(str(p.pid)); os.rename(sys.argv[1] + '.new', "
            "sys.argv[1] + '.pid'); c = p.wait(); open(sys.argv[1] + '.new', 'w').write(str(c)); "
            "os.rename(sys.argv[1] + '.new', sys.argv[1] + '.code')"
        )
        subprocess.Popen(
            [sys.executable, "-c", keeper, f"{{HOME}}/{{number}}", *words],
            stdin=subprocess.DEVNULL, stdout=output, stderr=errors, start_new_session=True,
            env={{**os.environ, **environment}},
        )

def read(number, what):
    try:
        return int(open(f"{{HOME}}/{{number}}.{{what}}").read())
    except (OSError, ValueError):
        return None

def end(number, name="TERM"):
    pid = read(number, "pid")
    if pid is not None and read(number, "code") is None:
        try:
            os.killpg(pid, getattr(signal, "SIG" + name))
        except ProcessLookupError:
            pass
"""

_BSUB = """
text = sys.stdin.read()
out = sys.argv[sys.argv.index("-o") + 1]
err = sys.argv[sys.argv.index("-e") + 1]
number = new_id()
open(f"{HOME}/{number}.sh", "w").write(text)
begin(number, ["/bin/sh", f"{HOME}/{number}.sh"], out, err, LSB_JOBID=number)
print(f"Job <{number}> is submitted to queue <normal>.")
"""

_BJOBS = """
for number in [word for word in sys.argv[1:] if word.isdecimal()]:
    code = read(number, "code")
    if code is None:
        print(f"{number}|RUN|-|alpha|-|-")
    elif code == 0:
        print(f"{number}|DONE|-|alpha|-|-")
    else:
        print(f"{number}|EXIT|{code if code > 0 else 128 - code}|alpha|-|-")
"""

_BKILL = """
name = sys.argv[sys.argv.index("-s") + 1] if "-s" in sys.argv else "TERM"
for number in [word for word in sys.argv[1:] if word.isdecimal()]:
    end(number, name)
"""

_CONDOR_SUBMIT = """
given = dict(re.findall(r"^(\\S+) = (.*)$", sys.stdin.read(), re.MULTILINE))
number = new_id()
script = given["arguments"].strip('"').strip("'")
begin(number, [given["executable"], script], given["output"], given["error"], IPKERNEL_JOB=number)
print(f"{number}.0 - {number}.0")
"""

_CONDOR_Q = """
ads = []
for number in [word for word in sys.argv[1:] if word.isdecimal()]:
    code = read(number, "code")
    ad = {"ClusterId": int(number)}
    if "condor_history" in sys.argv[0] and code is not None:
        ad |= {"JobStatus": 4, "ExitBySignal": code < 0}
        ad |= {"ExitCode": code} if code >= 0 else {"ExitSignal": -code}
    elif code is None:
        ad |= {"JobStatus": 2, "RemoteHost": "slot1@alpha"}
    else:
        continue
    ads.append(ad)
print(json.dumps(ads))
"""

_CONDOR_RM = """
for number in [word for word in sys.argv[1:] if word.isdecimal()]:
    end(number)
"""

COMMANDS = {
    "bsub": _BSUB,
    "bjobs": _BJOBS,
    "bkill": _BKILL,
    "condor_submit": _CONDOR_SUBMIT,
    "condor_q": _CONDOR_Q,
    "condor_history": _CONDOR_Q,
    "condor_rm": _CONDOR_RM,
}


def install(directory: Path) -> str:
    """Write the commands into a directory, and return a ``PATH`` on which they come first."""
    home = directory / "jobs"
    home.mkdir(parents=True)
    for name, text in COMMANDS.items():
        path = directory / name
        path.write_text(f"#!{sys.executable}\n{_COMMON.format(home=str(home))}\n{text}")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return os.pathsep.join([str(directory), os.environ["PATH"]])
