"""A Grid Engine of our own on this machine: a real queue master and a real execution host.

Its programs lie in ``.gridengine/`` at the project's root, unpacked from Debian's packages and not
installed: their commands have the names of PBS's. They expect their libraries in one place of the
file system, and a host whose name is not that of loopback, so the whole site runs in namespaces of
its own for mounts, names and processes. When those end, so does everything in them.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import psutil

from tests.support.components import free_ports, skip_if
from tests.support.leaks import COOKIE

__all__ = ["GridSite", "needs_grid_engine"]

_ROOT: Final = Path(__file__).resolve().parents[2] / ".gridengine" / "usr"
#: Where the programs look for their libraries.
_PLACE: Final = Path("/usr/lib/gridengine")
_HOST: Final = "gridhost"
_PATIENCE: Final = 60.0

_BOOTSTRAP: Final = """\
admin_user none
default_domain none
ignore_fqdn true
spooling_method classic
spooling_lib libspoolc
spooling_params {site}/sge/default/common;{site}/spool
binary_path {site}/sge/bin
qmaster_spool_dir {site}/spool
security_mode none
listener_threads 1
worker_threads 1
scheduler_threads 1
"""

#: Runs in the namespaces; says "ready", and ends with its input.
_SITE: Final = """\
exec 3>&1 > {site}/log 2>&1
set -e
mount --bind {programs} {place}
mount --bind {site}/hosts /etc/hosts
hostname {host}
PATH={place}:$PATH
export LD_LIBRARY_PATH={place} SGE_ND=1
spoolinit classic libspoolc '{site}/sge/default/common;{site}/spool' init
spooldefaults configuration {site}/configuration
spooldefaults complexes {share}/util/resources/centry
spooldefaults usersets {share}/util/resources/usersets
spooldefaults managers root
sge_qmaster 3>&- &
until qconf -sh > /dev/null 2>&1; do sleep 0.1; done
qconf -as {host}
qconf -ssconf | sed 's/^schedule_interval.*/schedule_interval 0:0:1/
    s/^flush_submit_sec.*/flush_submit_sec 1/; s/^flush_finish_sec.*/flush_finish_sec 1/' > {site}/sched
qconf -Msconf {site}/sched
qconf -Ap {share}/util/resources/pe/smp
sge_execd 3>&- &
until qhost | grep -q '^{host} *lx'; do sleep 0.1; done
qconf -sq | sed 's/^qname.*/qname all.q/; s/^hostlist.*/hostlist {host}/; s/^slots.*/slots 8/
    s/^pe_list.*/pe_list smp/; s,^shell .*,shell /bin/sh,; s,^load_thresholds.*,load_thresholds NONE,
    s/^shell_start_mode.*/shell_start_mode posix_compliant/' > {site}/queue
qconf -Aq {site}/queue
echo ready >&3
exec 3>&-
cat > /dev/null
"""


def missing() -> str:
    """Return what keeps this machine from running a Grid Engine, or nothing."""
    if not (_ROOT / "lib" / "gridengine" / "sge_qmaster").exists():
        return (
            f"no Grid Engine in {_ROOT.parent} (Debian: apt-get download gridengine-master "
            f"gridengine-exec gridengine-client gridengine-common, then dpkg -x each into it)"
        )
    return "" if os.geteuid() == 0 else "Grid Engine needs root, for namespaces"


needs_grid_engine: Final = skip_if(missing())


class GridSite:
    """A Grid Engine with one execution host; use it as a context manager.

    Attributes:
        options: What the launcher's section of the configuration must say to use it.
    """

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="grid-", dir="/tmp"))
        self.options: dict[str, Any] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._made_place = False

    def __enter__(self) -> GridSite:
        problem = missing()
        if problem:
            raise RuntimeError(problem)
        try:
            self._configure()
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End everything in the namespaces, and remove what it wrote."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            process.stdin.close()
            process.kill()  # and with it the first process in the namespaces: --kill-child
            process.wait(_PATIENCE)
        shutil.rmtree(self.directory, ignore_errors=True)
        if self._made_place:
            _PLACE.rmdir()

    def run(self, *command: str) -> str:
        """Run one of Grid Engine's commands; return what it prints."""
        done = subprocess.run(
            [*self._entering, *command], capture_output=True, text=True, check=False, timeout=30
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def jobs(self) -> list[str]:
        """Return the ids of jobs that have not ended."""
        return [line.split()[0] for line in self.run("qstat").splitlines()[2:]]

    # -------------------------------------------------------------------------- start

    def _configure(self) -> None:
        site, share = self.directory, _ROOT / "share" / "gridengine"
        for name in ("sge/bin", "sge/utilbin", "sge/default/common", "spool", "execd"):
            (site / name).mkdir(parents=True)
        environment = {"SGE_ROOT": str(site / "sge")}
        arch = subprocess.run(
            ["sh", share / "util" / "arch"],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for name in ("bin", "utilbin"):
            (site / "sge" / name / arch).symlink_to(_PLACE)
        (site / "sge" / "util").symlink_to(share / "util")
        common = site / "sge" / "default" / "common"
        (common / "bootstrap").write_text(_BOOTSTRAP.format(site=site))
        (common / "act_qmaster").write_text(f"{_HOST}\n")
        (site / "hosts").write_text(f"127.0.0.1 {_HOST} localhost\n")
        changes = {
            "execd_spool_dir": str(site / "execd"),
            "min_uid": "0",
            "min_gid": "0",
            "load_report_time": "00:00:01",
            "mailer": "/bin/true",
            "reporting_params": "accounting=true reporting=false flush_time=00:00:01 joblog=false "
            "sharelog=00:00:00",
        }
        lines = []
        for line in (share / "default-configuration").read_text().splitlines():
            name = line.split(" ", 1)[0].strip()
            lines.append(f"{name} {changes[name]}" if name in changes else line)
        (site / "configuration").write_text("\n".join(lines) + "\n")

    def _start(self) -> None:
        site = self.directory
        if not _PLACE.exists():
            _PLACE.mkdir()
            self._made_place = True
        script = _SITE.format(
            site=site,
            host=_HOST,
            place=_PLACE,
            programs=_ROOT / "lib" / "gridengine",
            share=_ROOT / "share" / "gridengine",
        )
        master, execution = free_ports(2)
        settings = {
            "SGE_ROOT": str(site / "sge"),
            "SGE_CELL": "default",
            "SGE_QMASTER_PORT": str(master),
            "SGE_EXECD_PORT": str(execution),
        }
        environment = {name: value for name, value in os.environ.items() if name != COOKIE}
        self._process = process = subprocess.Popen(
            [
                "unshare", "--mount", "--uts", "--pid", "--mount-proc", "--fork", "--kill-child",
                "sh", "-c", script,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**environment, **settings},
            start_new_session=True,
        )  # fmt: skip
        assert process.stdout is not None
        with process.stdout as says:
            if says.readline() != b"ready\n":
                raise RuntimeError(f"Grid Engine did not start:\n{(site / 'log').read_text()}")
        (first,) = psutil.Process(process.pid).children()
        given = [f"{name}={value}" for name, value in settings.items()]
        self._entering = [
            "nsenter", f"--target={first.pid}", "--mount", "--uts", "--pid", "env",
            f"LD_LIBRARY_PATH={_PLACE}", f"PATH={_PLACE}:/usr/bin:/bin", *given,
        ]  # fmt: skip
        for option, command in (
            ("submit", "qsub"),
            ("query", "qstat"),
            ("cancel", "qdel"),
            ("history", "qacct"),
        ):
            self.options[option] = shlex.join([*self._entering, command])
