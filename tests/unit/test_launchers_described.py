"""HPC Pack and Xgrid: the documents of jobs, the commands byte for byte, and their answers."""

from __future__ import annotations

import json
import plistlib
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from ipkernel.cluster.directory import ClusterDirectory
from ipkernel.errors import ConfigurationError
from ipkernel.launchers import find_launcher, foreach, jobrunner
from ipkernel.launchers.batchsystem import Answer, JobState, QueryFailed
from ipkernel.launchers.interfaces import Share
from ipkernel.launchers.jobfiles import JobFiles
from ipkernel.launchers.windows_hpc import WindowsHPC
from ipkernel.launchers.xgrid import Xgrid
from tests.support import batchjobs
from tests.system.test_docs import blocks

SUPPORT = Path(__file__).resolve().parents[1] / "support"
FILES = JobFiles(ClusterDirectory("/c"), "ipdaemon-1", ".xml")


@pytest.fixture(scope="module")
def schema():
    """Return what raises an error if a text does not fit the schema of HPC Pack's jobs."""
    rules = etree.XMLSchema(etree.parse(SUPPORT / "hpcjob.xsd"))
    return lambda text: rules.assertValid(etree.fromstring(text.encode()))


class TestJobFile:
    def test_the_least_byte_for_byte(self, schema):
        system = WindowsHPC({})
        text = system.describe(batchjobs.job_of(system), ["p y", "-m", 'a"b'], FILES)
        assert text == (
            '<?xml version="1.0" encoding="utf-8"?>\n'
            '<Job xmlns="http://schemas.microsoft.com/HPCS2008/scheduler/" Version="2.000" '
            'Name="ipdaemon" UnitType="Core" MinCores="4" MaxCores="4" Priority="Normal">\n'
            "  <Dependencies />\n"
            "  <Tasks>\n"
            '    <Task Name="ipdaemon" UnitType="Core" MinCores="4" MaxCores="4" '
            'CommandLine="&quot;p y&quot; -m a\\&quot;b" '
            'StdOutFilePath="/c/log/ipdaemon-1.job" StdErrFilePath="/c/log/ipdaemon-1.job" '
            'WorkDirectory="/c" IsRerunnable="false" />\n'
            "  </Tasks>\n"
            "</Job>\n"
        )
        schema(text)

    def test_all_options(self, schema):
        system = WindowsHPC(
            {
                "queue": "ComputeNodes",
                "account": "physics",
                "walltime": "01:00:00",
                "priority": "Highest",
                "job_name": "my <engines>",
                "cpus_per_engine": 2,
                "extra": ["JobTemplate = Default", "IsExclusive=true"],
            }
        )
        text = system.describe(batchjobs.job_of(system), ["python"], FILES)
        schema(text)
        job = ElementTree.fromstring(text)
        assert job.attrib == {
            "Version": "2.000",
            "Name": "my <engines>",
            "UnitType": "Core",
            "MinCores": "8",
            "MaxCores": "8",
            "RuntimeSeconds": "3600",
            "Priority": "Highest",
            "Project": "physics",
            "NodeGroups": "ComputeNodes",
            "JobTemplate": "Default",
            "IsExclusive": "true",
        }

    @given(name=st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"]), min_size=1))
    def test_any_name_fits_the_schema(self, schema, name):
        system = WindowsHPC({"job_name": name})
        schema(system.describe(batchjobs.job_of(system), [name], FILES))

    def test_an_extra_that_is_no_attribute(self):
        with pytest.raises(
            ConfigurationError, match="'extra' in section .windows_hpc.*JobTemplate"
        ):
            WindowsHPC({"extra": ["#PBS -l x"]})


class TestPropertyList:
    def test_what_is_in_it(self):
        system = Xgrid({"job_name": "mine"})
        text = system.describe(batchjobs.job_of(system), ["/py", "-m", "a & b"], FILES)
        assert plistlib.loads(text.encode()) == {
            "jobSpecification": {
                "applicationIdentifier": "org.ipkernel",
                "name": "mine",
                "submissionIdentifier": "ipdaemon-1",
                "inputFiles": {},
                "taskSpecifications": {"0": {"command": "/py", "arguments": ["-m", "a & b"]}},
            }
        }

    @pytest.mark.parametrize("name", ["account", "extra", "setup"])
    def test_what_xgrid_does_not_have(self, name):
        with pytest.raises(ConfigurationError, match=f"option '{name}' in section .xgrid"):
            Xgrid({name: "x"})


class TestCommands:
    def test_hpc_pack(self):
        system = WindowsHPC({"scheduler": "head"})
        assert system.submit(Path("/c/jobs/a.xml")) == [
            *("job", "submit", "/jobfile:/c/jobs/a.xml", "/scheduler:head")
        ]
        assert system.ask("7") == ["job", "view", "7", "/scheduler:head"]
        assert system.cancel(["7", "8"]) == [
            ["job", "cancel", "7", "/scheduler:head"],
            ["job", "cancel", "8", "/scheduler:head"],
        ]
        assert system.kill(["7"]) == [["job", "cancel", "7", "/scheduler:head", "/force"]]
        assert WindowsHPC({}).ask("7") == ["job", "view", "7"]

    def test_xgrid(self):
        system = Xgrid({"host": "head.example", "auth": "Kerberos", "queue": "3"})
        where = ["xgrid", "-h", "head.example", "-auth", "Kerberos"]
        assert system.submit(Path("/c/jobs/a.plist")) == [
            *(*where, "-job", "batch", "-gid", "3", "/c/jobs/a.plist")
        ]
        assert system.ask("7") == [*where, "-job", "attributes", "-id", "7"]
        assert system.cancel(["7"]) == [[*where, "-job", "stop", "-id", "7"]]
        assert system.kill(["7"]) == [[*where, "-job", "delete", "-id", "7"]]
        assert Xgrid({}).ask("7") == ["xgrid", "-job", "attributes", "-id", "7"]

    def test_the_launchers_are_found(self):
        for name, system in (("windows_hpc", WindowsHPC), ("xgrid", Xgrid)):
            for kind in ("controller", "engines"):
                assert find_launcher(kind, name).system_class is system


VIEW = """\
Job ID                          : 12
Job Name                        : ipdaemon
State                           : {}
{}
"""


class TestAnswers:
    def test_hpc_pack_says_which_job_it_submitted(self):
        assert WindowsHPC({}).read_job(Answer(0, "Job has been submitted. ID: 17.\n")) == "17"
        with pytest.raises(ValueError, match="did not say which job it submitted: what"):
            WindowsHPC({}).read_job(Answer(0, "what\n"))

    @pytest.mark.parametrize(
        ("state", "more", "found"),
        [
            ("Queued", "", JobState("pending")),
            (
                "Queued",
                "Pending Reason : Not enough cores",
                JobState("pending", "Not enough cores"),
            ),
            ("Validating", "", JobState("pending", "it is being validated")),
            ("Running", "Allocated Nodes : N1", JobState("running", "N1")),
            ("Canceling", "", JobState("ending")),
            ("Finished", "", JobState.exited(0)),
            ("Canceled", "", JobState("ended", "was cancelled")),
            ("Failed", "Error Message : no disk", JobState("ended", "failed: no disk", 1)),
            ("New", "", JobState("pending", "in state New")),
        ],
    )
    def test_hpc_packs_states(self, state, more, found):
        assert WindowsHPC({}).read_one("12", 0, VIEW.format(state, more)) == found

    def test_hpc_pack_does_not_know_a_job(self):
        assert WindowsHPC({}).read_one("12", 1, "The specified Job ID 12 does not exist.") is None

    def test_hpc_pack_cannot_answer(self):
        with pytest.raises(QueryFailed, match="The connection to the scheduler was lost"):
            WindowsHPC({}).read_one("12", 1, "The connection to the scheduler was lost.")

    def test_xgrid_says_which_job_it_submitted(self):
        assert Xgrid({}).read_job(Answer(0, "{\n    jobIdentifier = 17;\n}\n")) == "17"
        with pytest.raises(ValueError, match="did not say"):
            Xgrid({}).read_job(Answer(0, "{\n    error = CouldNotConnect;\n}\n"))

    @pytest.mark.parametrize(
        ("status", "found"),
        [
            ("Pending", JobState("pending")),
            ("Submitting", JobState("pending", "submitting")),
            ("Suspended", JobState("pending", "suspended")),
            ("Running", JobState("running")),
            ("Finished", JobState.exited(0)),
            ("Canceled", JobState("ended", "was cancelled", 1)),
            ("Failed", JobState("ended", "failed", 1)),
        ],
    )
    def test_xgrids_states(self, status, found):
        text = (
            '{\n    jobAttributes = {\n        name = "a; jobStatus = Failed;";\n'
            f"        jobStatus = {status};\n        percentDone = 0;\n    }};\n}}\n"
        )
        assert Xgrid({}).read_one("7", 0, text) == found

    def test_xgrid_does_not_know_a_job(self):
        assert Xgrid({}).read_one("7", 0, "{\n    error = InvalidJobIdentifier;\n}\n") is None

    def test_xgrid_cannot_answer(self):
        with pytest.raises(QueryFailed, match="CouldNotConnect"):
            Xgrid({}).read_one("7", 0, "{\n    error = CouldNotConnect;\n}\n")

    def test_several_jobs_at_once(self):
        system = Xgrid({})
        out = "\x1djob 7 0\n{ jobStatus = Running; }\n\x1djob 8 0\n{ error = InvalidJobIdentifier; }\n"
        assert system.read_states(["7", "8"], Answer(0, out)) == {"7": JobState("running")}
        with pytest.raises(QueryFailed, match="cannot run xgrid"):
            system.read_states(["7"], Answer(127, "", "cannot run xgrid: No such file"))

    @given(st.text())
    def test_any_answer_is_borne(self, text):
        for system in (WindowsHPC({}), Xgrid({})):
            try:
                system.read_one("7", 0, text)
            except QueryFailed:
                pass


@pytest.fixture
def directory(tmp_path):
    return ClusterDirectory(tmp_path / "cluster of mine").create()


class TestLaunchers:
    def launcher(self, directory, name, **options):
        return find_launcher("engines", name)(
            directory,
            ["--cluster-dir", str(directory), "-n", "2"],
            options={"python": "/py", **options},
            share=Share(2),
            environment={"SECRET": "hidden"},
        )

    def test_the_command_line_in_a_job_file(self, directory):
        launcher = self.launcher(directory, "windows_hpc", walltime="00:10:00")
        tasks = ElementTree.fromstring(launcher.script())[1]
        words = shlex.split(tasks[0].get("CommandLine"))
        stem = launcher.files.stem
        assert words == [
            *("/py", "-P", "-m", "ipkernel.launchers.jobrunner"),
            *("--environment", f"{directory}/jobs/{stem}.env"),
            *("--output", f"{directory}/log/{stem}.out", "--error", f"{directory}/log/{stem}.err"),
            *("--job-variable", "CCP_JOBID", "--"),
            *("/py", "-P", "-m", "ipkernel.cli.ipdaemon", "--cluster-dir", str(directory)),
            *("-n", "2", "--walltime", "590", "--drain-margin", "60"),
            *("--label", "windows_hpc job @{job}"),
        ]

    @pytest.mark.parametrize("name", ["windows_hpc", "xgrid"])
    def test_a_preview_shows_the_document_and_the_command_without_secrets(self, directory, name):
        text = self.launcher(directory, name).preview()
        assert "jobrunner" in text
        assert text.splitlines()[-1].startswith("<!-- submitted by: ")
        assert "hidden" not in text

    def test_a_controller_is_reachable_from_other_hosts(self, directory):
        launcher = find_launcher("controller", "xgrid")(directory, ["--port", "7"])
        task = plistlib.loads(launcher.script().encode())["jobSpecification"]["taskSpecifications"]
        assert task["0"]["arguments"][-5:] == [
            *("ipkernel.cli.ipcontroller", "--port", "7", "--interface", "0.0.0.0")
        ]


class TestForEach:
    def test_each_job_is_asked_about(self):
        one = [sys.executable, "-c", "import sys; print(sys.argv[1]); sys.exit(int(sys.argv[1]))"]
        command = foreach.command(["0", "3"], [*one, jobrunner.JOB])
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert list(foreach.answers(done.stdout)) == [("0", 0, "0\n"), ("3", 3, "3\n")]

    def test_there_is_no_such_command(self, capsys):
        assert foreach.main(["1", "--", "/no/such/command"]) == 127
        assert capsys.readouterr().err == "cannot run /no/such/command: No such file or directory\n"


class TestRunner:
    @given(
        st.dictionaries(
            st.from_regex(r"[A-Z_]{1,5}", fullmatch=True),
            st.text(st.characters(exclude_characters="\0", codec="utf-8")),
        )
    )
    def test_the_environment_is_read_as_it_was_written(self, values):
        lines = [f"export {name}={shlex.quote(value)}\n" for name, value in values.items()]
        assert jobrunner.read_environment("".join(lines)) == values

    def run(self, tmp_path, *program, **more):
        (tmp_path / "env").write_text("export A='it'\"'\"'s'\n")
        names = ("--environment", "env", "--output", "out", "--error", "err")
        where = [n if n.startswith("--") else str(tmp_path / n) for n in names]
        command = [sys.executable, "-P", "-m", "ipkernel.launchers.jobrunner", *where]
        return subprocess.run(
            [*command, "--job-variable", "ID", "--", *program], env=more, check=False
        )

    def test_a_program_is_run(self, tmp_path):
        code = "import os, sys; print(os.environ['A'], sys.argv[1]); sys.stderr.write('e'); sys.exit(3)"
        done = self.run(tmp_path, sys.executable, "-c", code, "job @{job}", ID="17")
        assert done.returncode == 3
        said, end = (tmp_path / "out").read_text().splitlines()
        assert said == "it's job 17"
        assert json.loads(end) == {"event": "exited", "code": 3}
        assert (tmp_path / "err").read_text() == "e"

    def test_a_program_that_is_killed(self, tmp_path):
        code = "import os; os.kill(os.getpid(), 9)"
        assert self.run(tmp_path, sys.executable, "-c", code).returncode == 137

    def test_no_program(self, tmp_path):
        assert self.run(tmp_path, "/no/such").returncode == 127
        assert (tmp_path / "err").read_text() == "cannot run /no/such: No such file or directory\n"


PAGES = Path(__file__).resolve().parents[2] / "docs" / "launchers"


@pytest.mark.parametrize(
    ("name", "home", "options"),
    [
        (
            "windows_hpc",
            "/home/ada",
            {
                "scheduler": "head",
                "walltime": "02:00:00",
                "queue": "ComputeNodes",
                "python": "python",
            },
        ),
        ("xgrid", "/Users/ada", {"host": "head.example", "python": "/usr/bin/python3"}),
    ],
)
def test_the_page_shows_what_is_submitted(name, home, options, schema):
    directory = ClusterDirectory(f"{home}/.ipython/cluster_default")
    launcher = find_launcher("engines", name)(
        directory, ["-n", "4"], options=options, share=Share(4)
    )
    launcher.files = JobFiles(directory, "ipdaemon-5f3a9c01", launcher.system.suffix)
    page = (PAGES / f"{name}.rst").read_text(encoding="utf-8")
    (shown,) = [block.text for block in blocks(page) if block.language == "xml"]
    assert shown == launcher.preview().expandtabs(4)
    if name == "windows_hpc":
        schema(shown)
