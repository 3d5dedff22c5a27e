"""The client's smaller parts: imports, places, waiting, questions, engines."""

from __future__ import annotations

import datetime
import gc
import os
import signal
import sys
import threading
import time

import pytest

from ipkernel import errors
from ipkernel.client.client import Client
from ipkernel.client.locate import check_other_options, locate
from ipkernel.client.waiting import may_block, reactor_threads, seconds, wait_until
from ipkernel.wire.furl import Furl, write_furl
from ipkernel.wire.queries import FIELDS
from tests.support.clients import rc
from tests.support.fakecontroller import FakeController

__all__ = ["rc"]


@pytest.fixture
def fake():
    return FakeController(engines=2)


# ---------------------------------------------------------------- imports


def test_imports_with_all_their_names(rc, capsys):
    view = rc[:]
    with view.sync_imports() as recorded:
        import collections.abc
        import email.message as message
        import json
        import string as text
        from os import path
        from textwrap import dedent as flush
    assert recorded.statements == [
        "import collections.abc",
        "import email.message as message",
        "import json",
        "import string as text",
        "from os import path",
        "from textwrap import dedent as flush",
    ]
    for name in ("collections", "message", "json", "text", "path", "flush"):
        assert name in rc[0].keys()
    assert "importing json on engine(s)" in capsys.readouterr().out
    assert text.digits == rc[0]["text.digits"]
    for local in (collections.abc, message, json, path, flush):
        assert local is not None
    assert rc[1]["text.digits"] == "0123456789"


def test_several_names_of_one_statement(rc):
    source = (
        "with view.sync_imports(quiet=True) as found:\n    from os.path import join as glue, split"
    )
    names = {"view": rc[:]}
    exec(source, names)
    assert names["found"].statements == ["from os.path import join as glue, split"]
    assert {"glue", "split"} <= set(rc[1].keys())


def test_quiet_and_not_local(rc, capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "xml.dom.pulldom", raising=False)
    with rc[:].sync_imports(local=False, quiet=True):
        import xml.dom.pulldom as there
    assert capsys.readouterr().out == ""
    assert there.START_ELEMENT is not None
    assert "there" in rc[0].keys()


def test_imports_of_others_are_not_recorded(rc):
    import builtins

    before = builtins.__import__
    with rc[:].sync_imports(quiet=True) as recorded:
        exec("import zipfile")
        thread = threading.Thread(target=lambda: __import__("tarfile"))
        thread.start()
        thread.join()
    assert recorded.statements == []
    assert builtins.__import__ is before


def test_failing_import_ends_the_hook(rc):
    import builtins

    before = builtins.__import__
    with pytest.raises(ImportError):
        with rc[:].importer:
            import no_such_module_anywhere  # noqa: F401
    assert builtins.__import__ is before
    assert rc[0].keys() == []


# ---------------------------------------------------------------- places


FURL = Furl.parse("pb://" + "a" * 32 + "b" * 52 + "@tcp:127.0.0.1:5/" + "c" * 32)


@pytest.fixture
def directory(tmp_path):
    security = tmp_path / "cluster_x" / "security"
    security.mkdir(parents=True)
    for path in (security.parent, security):
        path.chmod(0o700)
    for role in ("client", "admin"):
        write_furl(security / f"ipcontroller-{role}.furl", FURL)
    return security.parent


def test_all_ways_to_say_where(directory, monkeypatch):
    file = directory / "security" / "ipcontroller-client.furl"

    class Cluster:
        pass

    cluster = Cluster()
    cluster.directory = directory
    monkeypatch.setenv("IPYTHONDIR", str(directory.parent))
    for place in (
        locate(str(FURL)),
        locate(str(file)),
        locate(file),
        locate(directory),
        locate("x"),
        locate(url_file=file),
        locate(furl_file=str(file)),
        locate(cluster_dir=directory),
        locate(profile_dir=directory),
        locate(cluster="x"),
        locate(cluster=cluster),
        locate(profile="x"),
        locate(cluster_id="x"),
    ):
        assert place.furl == FURL
    assert locate(file).other("admin") == FURL
    with pytest.raises(errors.ConnectError, match="admin FURL"):
        locate(str(FURL)).other("admin")


def test_default_cluster_and_missing_ones(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    with pytest.raises(errors.ConnectError, match="cluster_default.*ipcluster start"):
        locate()
    with pytest.raises(errors.ConnectError, match="cluster_nothere"):
        locate("nothere")
    with pytest.raises(errors.ConnectError, match=r"x\.furl"):
        locate("x.furl")
    monkeypatch.setenv("IPP_CLUSTER_ID", "fromenv")
    with pytest.raises(errors.ConnectError, match="cluster_fromenv"):
        locate()


def test_contradictions(directory):
    with pytest.raises(errors.ConfigurationError, match="say once"):
        locate(str(FURL), cluster="x")
    with pytest.raises(errors.ConfigurationError, match="say once"):
        locate(cluster_dir=directory, url_file="y")


@pytest.mark.skipif(os.name != "posix", reason="modes of files mean something on POSIX only")
def test_readable_by_others_is_refused(directory):
    file = directory / "security" / "ipcontroller-client.furl"
    file.chmod(0o644)
    with pytest.raises(errors.SecurityError):
        locate(file)


def test_other_options():
    check_other_options({"context": None, "debug": False, "sshserver": None})
    with pytest.warns(UserWarning, match="debug") as warned:
        check_other_options({"debug": True})
    assert warned[0].filename == __file__
    with pytest.raises(errors.ConfigurationError, match="sshserver"):
        check_other_options({"sshserver": "me@there"})
    with pytest.raises(TypeError, match="'nonsense'"):
        Client(nonsense=1)


# ---------------------------------------------------------------- waiting


def test_seconds():
    assert seconds(None) is seconds(-1) is seconds(-0.5) is None
    assert seconds(0) == 0.0
    assert seconds(2) == 2.0


def test_wait_until():
    condition = threading.Condition()
    with condition:
        assert wait_until(condition, lambda: True, 0)
        assert not wait_until(condition, lambda: False, 0)
        assert not wait_until(condition, lambda: False, 0.01)


def test_sliced_waiting_as_on_windows(monkeypatch):
    monkeypatch.setattr("ipkernel.client.waiting.SLICE", 0.001)
    condition = threading.Condition()
    looks = iter([False] * 5 + [True])
    with condition:
        assert wait_until(condition, lambda: next(looks), None)


def test_a_client_may_be_collected_while_another_starts(monkeypatch):
    from ipkernel.client import reactor_thread

    def collects(interval):  # as the garbage collector does, anywhere
        reactor_thread.client_closed()

    monkeypatch.setattr(reactor_thread, "_open", 1)
    monkeypatch.setattr(sys, "setswitchinterval", collects)
    reactor_thread.client_opened(1e-9)
    assert reactor_thread._open == 1


@pytest.fixture
def thresholds(monkeypatch):
    """The settings of the garbage collector, with no client open; restored afterwards."""
    from ipkernel.client import reactor_thread

    before = gc.get_threshold()
    monkeypatch.setattr(reactor_thread, "_open", 0)
    yield reactor_thread
    gc.set_threshold(*before)


def test_the_garbage_collector_is_patient_while_clients_are_open(thresholds):
    gc.set_threshold(700, 10, 10)
    thresholds.client_opened(None)
    thresholds.client_opened(None)
    assert gc.get_threshold() == thresholds.PATIENCE
    thresholds.client_closed()
    assert gc.get_threshold() == thresholds.PATIENCE
    thresholds.client_closed()
    assert gc.get_threshold() == (700, 10, 10)


@pytest.mark.parametrize("own", [(0, 10, 10), (50_000, 5, 5)])
def test_a_garbage_collector_that_was_set_up_stays_so(thresholds, own):
    gc.set_threshold(*own)
    thresholds.client_opened(None)
    assert gc.get_threshold() == own
    thresholds.client_closed()
    assert gc.get_threshold() == own


def test_what_was_set_while_a_client_was_open_stays(thresholds):
    gc.set_threshold(700, 10, 10)
    thresholds.client_opened(None)
    gc.set_threshold(900, 9, 9)
    thresholds.client_closed()
    assert gc.get_threshold() == (900, 9, 9)


def test_reactor_thread_must_not_wait(fake, rc):
    fake.held = True
    result = rc.load_balanced_view().apply_async(int)
    reactor_threads.add(threading.get_ident())
    try:
        with pytest.raises(RuntimeError, match="would block the reactor"):
            result.get()
        with pytest.raises(RuntimeError):
            may_block()
        fake.release()
        assert result.get() == 0, "what is there can be had anywhere"
    finally:
        reactor_threads.discard(threading.get_ident())


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs signals to threads")
def test_interrupt_ends_a_wait_and_nothing_else(fake, rc):
    fake.held = True
    result = rc.load_balanced_view().apply_async(int)
    main = threading.get_ident()
    timer = threading.Timer(0.1, lambda: signal.pthread_kill(main, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        result.get(30)
    timer.join()
    fake.held = False
    fake.release()
    assert result.get() == 0
    assert rc[:].apply_sync(int) == [0, 0]


# ---------------------------------------------------------------- questions and orders


def test_wait_takes_all_kinds_of_jobs(fake, rc):
    import concurrent.futures

    fake.held = True
    view = rc.load_balanced_view()
    first, second = view.apply_async(int), view.apply_async(int)
    foreign = concurrent.futures.Future()
    assert not rc.wait(timeout=0)
    assert not rc.wait(first, timeout=0)
    fake.release()
    assert rc.wait([first, second.msg_ids[0], 0, -1])
    assert rc.wait(first.msg_ids[0]) and rc.wait(-1) and rc.wait()
    assert not rc.wait([foreign], timeout=0.01)
    foreign.set_result(None)
    assert rc.wait(foreign)
    with pytest.raises(errors.KernelError, match="history"):
        rc.wait(-99)


def test_wait_interactive(fake, rc, capsys):
    view = rc.load_balanced_view()
    rc.wait_interactive([view.apply_async(int), view.apply_async(int)], interval=0.01)
    assert "2/2" in capsys.readouterr().err
    rc.wait_interactive()


def test_abort(fake, rc):
    fake.held = True
    results = [rc[i].apply_async(int) for i in (0, 1, 0)]
    rc.abort(targets=1, block=True)
    assert [r.done() for r in results] == [False, True, False]
    rc.abort(results[0])
    rc.abort()
    for result in results:
        with pytest.raises(errors.TaskAborted):
            result.get(0)


def test_send_signal(fake, rc):
    rc.send_signal("SIGINT")
    rc.send_signal(signal.SIGTERM, targets=1)
    rc.send_signal("kill", targets=[0])
    assert fake.signals == [("SIGINT", [0, 1]), ("SIGTERM", [1]), ("SIGKILL", [0])]
    for nonsense in ("SIGNONSENSE", "_DFL", 12345):
        with pytest.raises(ValueError):
            rc.send_signal(nonsense)


def test_shutdown(fake, rc):
    rc.shutdown(1, restart=True)
    assert fake.signals == [("restart_engines", [1])]
    rc.shutdown([0])
    rc.shutdown(hub=True)
    assert [method for method, _ in fake.admin] == ["stop_engines", "shutdown"]


def test_queue_status(fake, rc):
    fake.held = True
    result = rc[0].apply_async(int)
    status = rc.queue_status()
    assert status == {
        0: {"queue": 0, "completed": 3, "tasks": 0},
        1: {"queue": 0, "completed": 3, "tasks": 0},
        "unassigned": 1,
    }
    assert set(rc[1].queue_status()) == {1, "unassigned"}
    assert rc.queue_status(verbose=True)[0]["queue"] == result.msg_ids


def test_result_status(fake, rc):
    fake.held = True
    view = rc.load_balanced_view()
    results = [view.apply_async(int) for _ in range(2)]
    fake.release(1)
    ids = [r.msg_ids[0] for r in results]
    assert rc.result_status(results) == {"pending": [ids[1]], "completed": [ids[0]]}
    assert rc.result_status(ids, status_only=False)[ids[0]] == 0
    foreign = 99 << 40
    with pytest.raises(errors.KernelError, match=f"task {foreign} is not known"):
        rc.result_status(foreign)
    fake.kept[foreign] = kept(foreign, "theirs")
    assert rc.result_status(foreign) == {"pending": [], "completed": [foreign]}
    assert rc.result_status([foreign], status_only=False)[foreign] == "theirs"


def kept(task, value):
    """A result that the controller keeps."""
    from ipkernel.serialize.payload import dumps_bytes
    from ipkernel.wire.messages import Finished, Outcome

    answer = dumps_bytes(value)
    return Finished(task, Outcome.OK, 0, 1.0, 2.0, len(answer)), answer


def test_get_result_of_another_client(fake, rc):
    foreign = (3 << 40) + 1
    fake.kept[foreign] = kept(foreign, "kept")
    result = rc.get_result(foreign)
    assert result.get(5) == "kept"
    assert result.label == "old" and result.submitted.timestamp() == 500.0
    assert rc.get_result([foreign], block=True) == ["kept"]


def test_purging(fake, rc):
    view = rc.load_balanced_view()
    held = [view.apply_async(int), rc[1].apply_async(int)]
    ids = [r.msg_ids[0] for r in held]
    assert set(rc.results) == set(ids)
    rc.purge_results(targets=1)
    assert set(rc.results) == {ids[0]}
    rc.purge_results(held[0])
    assert rc.results == {}
    view.apply_async(int)
    rc.purge_results("all")
    rc.purge_everything()
    assert held[0].get() == 0
    assert [(p.tasks, p.engines, p.everything) for p in fake.purges] == [
        ([], [1], False),
        ([ids[0]], [], False),
        ([], [], True),
        ([], [], True),
    ]


def test_tasks_are_found_by_what_they_are(fake, rc):
    fake.held = True
    view = rc.load_balanced_view()
    with view.temp_flags(label="fit"):
        ids = [view.apply_async(int).msg_ids[0] for _ in range(5)]
    other = rc[1].apply_async(int).msg_ids[0]
    foreign = (3 << 40) + 1
    fake.kept[foreign] = kept(foreign, "kept")
    assert rc.hub_history() == [foreign, *ids, other]
    assert [row["msg_id"] for row in rc.db_query({"label": "fit"})] == ids
    assert rc.db_query({"engine_id": {"$gte": 1}}, keys="label") == [
        {"msg_id": other, "label": None}
    ]
    (row,) = rc.db_query({"completed": {"$lt": datetime.datetime(1980, 1, 1)}})
    assert row["msg_id"] == foreign and row["completed"].timestamp() == 2.0
    assert row["started"] is None and set(row) == set(FIELDS)
    with pytest.raises(errors.QueryError, match="did you mean 'label'"):
        rc.db_query({"lable": "fit"})
    with pytest.raises(ValueError, match="did you mean 'engine_id'"):
        rc.db_query({}, keys=["msg_id", "engineid"])


def test_results_by_label(fake, rc):
    fake.held = True
    view = rc.load_balanced_view()
    with view.temp_flags(label="fit"):
        mine = [view.apply_async(int, n) for n in range(3)]
    found = rc.get_result(label="fit")
    assert found.msg_ids == [r.msg_ids[0] for r in mine]
    fake.release()
    assert found.get(5) == [0, 1, 2]
    assert rc.get_result(label="fit", block=True) == [0, 1, 2]  # somebody holds them here
    foreign = (3 << 40) + 1
    fake.kept[foreign] = kept(foreign, "theirs")
    assert rc.get_result(label="old").get(5) == ["theirs"]
    with pytest.raises(errors.KernelError, match="no task with the label 'none'"):
        rc.get_result(label="none")


def test_tasks_are_run_again(fake, rc):
    foreign = (3 << 40) + 1
    fake.kept[foreign] = kept(foreign, "theirs")
    again = rc.resubmit(foreign)
    assert again.get(5) == "theirs" and again.msg_ids == [rc.history[-1]]
    assert again.label == "old"
    assert rc.resubmit([foreign, foreign], block=True) == ["theirs", "theirs"]
    fake.held = True
    running = rc[0].apply_async(int)
    with pytest.raises(errors.KernelError, match=r"has not ended \(ready\)"):
        rc.resubmit([foreign, running])
    with pytest.raises(errors.KernelError, match="does not know it"):
        rc.resubmit(5 << 40)
    assert len(rc.history) == 4


def test_queue_status_in_full(fake, rc):
    fake.held = True
    bound = rc[0].apply_async(int)
    free = rc.load_balanced_view().apply_async(int)
    fake.kept[7] = kept(7, None)
    status = rc.queue_status(verbose=True)
    assert status[0] == {"queue": bound.msg_ids, "completed": [7], "tasks": []}
    assert status[1] == {"queue": [], "completed": [], "tasks": []}
    assert status["unassigned"] == free.msg_ids


def test_purging_what_is_pending_is_refused(fake, rc):
    fake.held = True
    result = rc[0].apply_async(int)
    with pytest.raises(RuntimeError, match="pending"):
        rc.purge_local_results(result)


def test_explain(fake, rc):
    fake.held = True
    result = rc[0].apply_async(int)
    assert [s.state for s in rc.explain(result)] == ["ready"]
    assert [s.task for s in rc.explain([result, 0])] == result.msg_ids * 2


# ---------------------------------------------------------------- waiting for engines


def test_engines_that_are_there(rc):
    assert rc.wait_for_engines(2, timeout=0) is None
    assert rc.wait_for_engines() is None


def test_engines_that_come(fake, rc):
    timer = threading.Timer(0.05, fake.join, (2,))
    timer.start()
    rc.wait_for_engines(3, timeout=30, interactive=False)
    timer.join()
    assert rc.ids == [0, 1, 2]


def test_engines_that_do_not_come(fake, rc):
    fake.leave(1, "exited with code 3", restarting=True)
    with pytest.raises(TimeoutError) as caught:
        rc.wait_for_engines(4, timeout=0.01, interactive=False)
    text = str(caught.value)
    assert text.startswith("4 engines not ready in 0.01 seconds. Currently ready: 1\n")
    assert "engine 1 on h: restarting: exited with code 3" in text
    assert "no host daemon has connected" in text


def test_engine_that_dies_for_good_meanwhile(fake, rc):
    timer = threading.Timer(0.05, fake.leave, (1, "exited 5 times in a row"))
    timer.start()
    with pytest.raises(errors.EngineError, match="5 times in a row"):
        rc.wait_for_engines(3, timeout=30, interactive=False)
    timer.join()


def test_controller_that_goes_meanwhile(fake, rc):
    timer = threading.Timer(0.05, fake.session.lost, (lambda: errors.ControllerLost("gone"),))
    timer.start()
    with pytest.raises(errors.ControllerLost):
        rc.wait_for_engines(3, timeout=30, interactive=False)
    timer.join()


def test_waiting_for_engines_with_a_bar_or_in_the_background(fake, rc, capsys):
    future = rc.wait_for_engines(3, timeout=30, block=False)
    timer = threading.Timer(0.05, fake.join, (2,))
    timer.start()
    rc.wait_for_engines(3, timeout=30, interactive=True, widget=False)
    timer.join()
    assert future.result(10) is None
    assert "3/3" in capsys.readouterr().err
    with pytest.raises(TimeoutError):
        rc.wait_for_engines(9, timeout=0.01, block=False).result(10)
    deadline = time.monotonic() + 5
    while any(t.name == "ipkernel-wait" for t in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.005)


# ---------------------------------------------------------------- compatibility


def test_names_that_programs_use_though_private(fake, rc):
    fake.held = True
    result = rc[1].apply_async(int)
    assert rc._ids == [0, 1]
    assert rc._engines == {0: "h:100", 1: "h:101"}
    assert rc._build_targets([0])[1] == [0]
    assert rc._outstanding_dict == {0: set(), 1: set(result.msg_ids)}
    assert result._fname == "int"
    assert result._children == [result]
    assert result._metadata[0]["engine_id"] == 1
    assert result._return_exceptions is False
    rc.spin()


def test_a_labelled_result_that_comes_while_it_is_asked_for_is_not_missed(fake, rc):
    fake.held = True
    with rc.load_balanced_view().temp_flags(label="fit") as view:
        view.apply_async(int)  # nobody holds the result
    search = fake.search

    def ends_meanwhile(request):
        fake.held = False
        page = search(request)
        fake.release()
        return page

    fake.search = ends_meanwhile
    assert rc.get_result(label="fit").get(5) == [0]
