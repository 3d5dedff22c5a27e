"""Files to engines and back: paths, errors of both sides, progress, giving up."""

from __future__ import annotations

import errno
import os
import threading

import pytest

from ipkernel.client import fileresult
from ipkernel.client.fileresult import FileResult
from ipkernel.errors import CompositeError, ConnectError, RemoteError, StoreFull, TransferError
from ipkernel.objects import filetree, unfinished
from ipkernel.objects.transfer import TransferCancelled
from tests.support.flowscene import FlowScene
from tests.support.flowstore import FlowStore

CONTENT = os.urandom(100_000)


@pytest.fixture
def scene(monkeypatch):
    with FlowScene(monkeypatch) as made:
        yield made


@pytest.fixture
def there(tmp_path, monkeypatch):
    """The current directory of client and engine."""
    directory = tmp_path / "there"
    directory.mkdir()
    monkeypatch.chdir(directory)
    monkeypatch.setenv("HOME", str(tmp_path))
    return directory


@pytest.fixture
def file(tmp_path):
    """A file to be sent."""
    path = tmp_path / "data.bin"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def small_chunks(monkeypatch):
    """Have a file be many chunks."""
    original = filetree.Source.payloads
    monkeypatch.setattr(
        filetree.Source, "payloads", lambda self, transfer: original(self, transfer, 8192)
    )


class GatedStore(FlowStore):
    """Lets no more than so many chunks in until ``gate`` is set."""

    def __init__(self, most: int = 2) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.reached = threading.Event()
        self._most = most

    def put(self, *args, **options):
        if self.puts >= self._most:
            self.reached.set()
            assert self.gate.wait(20)
        super().put(*args, **options)


class TestSending:
    def test_a_file_arrives_in_the_engines_directory(self, scene, there, file):
        result = scene.view.send_file(file)
        assert isinstance(result, FileResult)
        assert result.get(20) == str(there / "data.bin")
        assert (there / "data.bin").read_bytes() == CONTENT

    @pytest.mark.parametrize(
        ("remote", "expected"),
        [
            ("other", "other"),
            ("new/other", "new/other"),
            ("new/", "new/data.bin"),
            (".", "data.bin"),
            ("old", "old/data.bin"),
        ],
    )
    def test_where_it_goes(self, scene, there, file, remote, expected):
        (there / "old").mkdir()
        assert scene.view.send_file(file, remote).get(20) == str(there / expected)
        assert (there / expected).read_bytes() == CONTENT

    def test_the_home_directory_is_the_engines(self, scene, there, file, tmp_path):
        assert scene.view.send_file("~/data.bin", "~/x/y").get(20) == str(tmp_path / "x" / "y")

    def test_names_may_be_bytes(self, scene, there, file):
        assert scene.view.send_file(os.fsencode(file), b"x").get(20) == str(there / "x")

    def test_a_directory(self, scene, there, tmp_path):
        (tmp_path / "tree" / "sub").mkdir(parents=True)
        (tmp_path / "tree" / "sub" / "f").write_bytes(CONTENT)
        assert scene.view.send_file(tmp_path / "tree").get(20) == str(there / "tree")
        assert (there / "tree" / "sub" / "f").read_bytes() == CONTENT

    def test_many_chunks(self, scene, there, file, small_chunks):
        scene.view.send_file(file).get(20)
        assert (there / "data.bin").read_bytes() == CONTENT
        assert scene.flow_store.puts > 10
        assert scene.flow_store.most[1] <= 4

    def test_waiting_for_it(self, scene, there, file):
        assert scene.view.send_file(file, block=True) == str(there / "data.bin")
        scene.view.block = True
        assert scene.view.send_file(file) == str(there / "data.bin")

    def test_to_several_engines(self, scene, there, file):
        scene.join(1)
        result = scene.rc[:].send_file(file)
        assert result.get(20) == [str(there / "data.bin")] * 2
        assert [transfer.done for transfer in result.transfers] == [100_000, 100_000]

    def test_it_replaces_what_is_there_or_not(self, scene, there, file):
        (there / "data.bin").write_bytes(b"old")
        with pytest.raises(FileExistsError) as caught:
            scene.view.send_file(file, overwrite=False, block=True)
        assert isinstance(caught.value, RemoteError)
        assert (there / "data.bin").read_bytes() == b"old"
        scene.view.send_file(file, block=True)
        assert (there / "data.bin").read_bytes() == CONTENT

    def test_what_is_not_here_is_an_error_at_once(self, scene, there):
        with pytest.raises(FileNotFoundError) as caught:
            scene.view.send_file("nothing")
        assert caught.value.filename == str(there / "nothing")
        assert scene.messages == []

    def test_a_file_that_cannot_be_read_to_its_end(self, scene, there, file, monkeypatch):
        def payloads(self, transfer):
            yield from original(self, transfer)
            raise error

        error = OSError(errno.EIO, "Input/output error", str(file))
        original = filetree.Source.payloads
        monkeypatch.setattr(filetree.Source, "payloads", payloads)
        result = scene.view.send_file(file)
        with pytest.raises(OSError, match="Input/output") as caught:
            result.get(20)
        assert caught.value is error
        assert not result.successful()
        assert os.listdir(there) == []

    def test_a_full_disk_there(self, scene, there, file, monkeypatch):
        def full(fd, data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(unfinished.os, "write", full)
        with pytest.raises(OSError, match="No space left") as caught:
            scene.view.send_file(file).get(20)
        assert isinstance(caught.value, RemoteError)
        assert caught.value.errno == errno.ENOSPC
        assert os.listdir(there) == []

    def test_engines_with_the_same_directory_get_it_once(self, scene, there, file, small_chunks):
        scene.view.send_file(file, "first", block=True)
        once = scene.flow_store.puts
        for number in (1, 2):
            scene.join(number)
        result = scene.rc[:].send_file(file, "new/f", overwrite=False)
        assert result.get(20) == [str(there / "new" / "f")] * 3
        assert scene.flow_store.puts == 2 * once + 2

    def test_a_directory_is_not_put_into_itself(self, scene, there, tmp_path):
        (tmp_path / "tree").mkdir()
        (tmp_path / "tree" / "f").write_bytes(CONTENT)
        scene.join(1)
        result = scene.rc[:].send_file(tmp_path / "tree", "new")
        assert result.get(20) == [str(there / "new")] * 2
        assert os.listdir(there / "new") == ["f"]

    def test_what_fails_for_one_fails_for_all(self, scene, there, file):
        (there / "data.bin").mkdir()
        scene.join(1)
        result = scene.rc[:].send_file(file)
        with pytest.raises(CompositeError, match="IsADirectoryError"):
            result.get(20)
        assert [type(e).__name__ for e in result.errors] == ["RemoteIsADirectoryError"] * 2
        assert [e.engine_info["engine"] for e in result.errors] == [0, 1]

    def test_what_fails_here_fails_for_all(self, scene, there, file, monkeypatch):
        scene.join(1)
        scene.held = True
        result = scene.rc[:].send_file(file)
        file.unlink()
        scene.held = False
        scene.release()
        with pytest.raises(FileNotFoundError):
            result.get(20)
        assert [type(e).__name__ for e in result.errors] == ["FileNotFoundError"] * 2
        assert os.listdir(there) == []

    def test_a_full_store(self, monkeypatch, there, file):
        with FlowScene(monkeypatch, FlowStore(limit=50_000)) as scene:
            with pytest.raises(StoreFull):
                scene.view.send_file(file).get(20)
        assert os.listdir(there) == []

    def test_a_store_that_breaks_down(self, scene, there, file, monkeypatch, small_chunks):
        monkeypatch.setattr(fileresult, "NEWS", 0.05)
        store = GatedStore()
        scene.flow_store = scene.connector.stores[1] = store
        scene.state.loop.objects.store = store
        result = scene.view.send_file(file)
        assert store.reached.wait(20)
        store.break_down()
        store.gate.set()
        with pytest.raises(ConnectError):
            result.get(20)
        assert os.listdir(there) == []

    def test_giving_it_up(self, monkeypatch, there, file, small_chunks):
        store = GatedStore()
        with FlowScene(monkeypatch, store) as scene:
            result = scene.view.send_file(file)
            assert store.reached.wait(20)
            assert result.cancel()
            store.gate.set()
        assert os.listdir(there) == []
        assert result.cancelled()
        assert not result.cancel() or result.cancelled()

    def test_giving_up_the_transfer_only(self, monkeypatch, there, file, small_chunks):
        store = GatedStore()
        with FlowScene(monkeypatch, store) as scene:
            result = scene.view.send_file(file)
            assert store.reached.wait(20)
            (transfer,) = result.transfers
            assert 0 < transfer.done < transfer.size == 100_000
            assert result.transfer is transfer
            assert scene.session.objects.mover.transfers.now() == [transfer]
            transfer.cancel()
            store.gate.set()
            with pytest.raises(TransferCancelled, match="send_file to engine 0 was cancelled"):
                result.get(20)
        assert scene.session.objects.mover.transfers.now() == []
        assert os.listdir(there) == []

    def test_giving_it_up_before_it_has_begun(self, scene, there, file):
        scene.held = True
        result = scene.view.send_file(file)
        result.cancel()
        scene.held = False
        scene.release()
        assert os.listdir(there) == []

    def test_ctrl_c_gives_it_up(self, scene, there, file, monkeypatch):
        def interrupt(self, *args):
            raise KeyboardInterrupt

        monkeypatch.setattr(FileResult, "get", interrupt)
        scene.held = True
        with pytest.raises(KeyboardInterrupt):
            scene.view.send_file(file, block=True)
        scene.held = False
        scene.release()
        assert os.listdir(there) == []

    def test_an_engine_that_is_lost(self, scene, there, file):
        scene.held = True
        result = scene.view.send_file(file)
        scene.session.lost(lambda: ConnectionError("lost"))
        with pytest.raises(ConnectionError, match="lost"):
            result.get(20)
        scene.queue.clear()

    def test_nothing_is_expected_any_more_when_it_is_done(self, scene, there, file):
        scene.view.send_file(file, block=True)
        scene.view.receive_file("data.bin", "copy", block=True)
        assert scene.session.objects.flows._expected == {}


class TestReceiving:
    def test_a_file_comes_into_the_current_directory(self, scene, there, file):
        result = scene.view.receive_file(file)
        assert result.get(20) == str(there / "data.bin")
        assert (there / "data.bin").read_bytes() == CONTENT
        assert result.transfers[0].done == result.transfers[0].size == 100_000

    @pytest.mark.parametrize(
        ("local", "expected"),
        [
            ("other", "other"),
            ("new/other", "new/other"),
            ("new/", "new/data.bin"),
            (".", "data.bin"),
            ("", "data.bin"),
            ("old", "old/data.bin"),
            ("~", "../data.bin"),
            ("of {engine}", "of 0"),
        ],
    )
    def test_where_it_goes(self, scene, there, file, local, expected):
        (there / "old").mkdir()
        os.rename(file, file.parent / "there" / "data.bin")
        os.mkdir("sub")
        os.rename("data.bin", "sub/data.bin")
        path = scene.view.receive_file("sub/data.bin", local).get(20)
        assert path == os.path.normpath(there / expected)
        assert (there / expected).read_bytes() == CONTENT

    def test_it_does_not_matter_where_the_client_goes_meanwhile(self, scene, there, file):
        scene.held = True
        result = scene.view.receive_file(str(file), "x")
        os.chdir("..")
        scene.held = False
        scene.release()
        assert result.get(20) == str(there / "x")

    def test_a_directory_in_many_chunks(self, scene, there, tmp_path, small_chunks):
        (tmp_path / "tree" / "sub").mkdir(parents=True)
        (tmp_path / "tree" / "sub" / "f").write_bytes(CONTENT)
        assert scene.view.receive_file(tmp_path / "tree", block=True) == str(there / "tree")
        assert (there / "tree" / "sub" / "f").read_bytes() == CONTENT

    @pytest.mark.parametrize(
        ("local", "expected"),
        [
            (None, "{}/data.bin"),
            ("d", "d/{}/data.bin"),
            ("d/{engine}.bin", "d/{}.bin"),
        ],
    )
    def test_from_several_engines(self, scene, there, file, local, expected):
        scene.join(1)
        paths = scene.rc[:].receive_file(file, local).get(20)
        assert paths == [str(there / expected.format(n)) for n in (0, 1)]
        for path in paths:
            with open(path, "rb") as found:
                assert found.read() == CONTENT

    def test_what_is_not_there_is_named(self, scene, there):
        with pytest.raises(FileNotFoundError, match="nothing") as caught:
            scene.view.receive_file("nothing").get(20)
        assert isinstance(caught.value, RemoteError)

    def test_it_replaces_what_is_here_or_not(self, scene, there, file):
        (there / "data.bin").write_bytes(b"old")
        with pytest.raises(FileExistsError) as caught:
            scene.view.receive_file(file, overwrite=False).get(20)
        assert not isinstance(caught.value, RemoteError)
        assert (there / "data.bin").read_bytes() == b"old"
        scene.view.receive_file(file).get(20)
        assert (there / "data.bin").read_bytes() == CONTENT

    def test_a_full_disk_here(self, scene, there, file, monkeypatch, small_chunks):
        def full(fd, data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(unfinished.os, "write", full)
        result = scene.view.receive_file(file)
        with pytest.raises(OSError, match="No space left") as caught:
            result.get(20)
        assert not isinstance(caught.value, RemoteError)
        assert isinstance(result.exception(), OSError)
        assert os.listdir(there) == []

    def test_giving_it_up(self, monkeypatch, there, file, small_chunks):
        store = GatedStore()
        with FlowScene(monkeypatch, store) as scene:
            result = scene.view.receive_file(file)
            assert store.reached.wait(20)
            result.cancel()
            store.gate.set()
        assert os.listdir(there) == []

    def test_a_file_that_arrives_damaged(self, scene, there, file, monkeypatch):
        class Wrong:
            def __init__(self):
                self.update = lambda data: None
                self.digest = lambda: bytes(16)

        monkeypatch.setattr(filetree, "xxh3_128", Wrong)
        with pytest.raises(TransferError, match="data.bin has arrived damaged"):
            scene.view.receive_file(file).get(20)
        assert os.listdir(there) == []

    def test_a_full_store(self, monkeypatch, there, file):
        with FlowScene(monkeypatch, FlowStore(limit=50_000)) as scene:
            with pytest.raises(StoreFull) as caught:
                scene.view.receive_file(file).get(20)
            assert isinstance(caught.value, RemoteError)
        assert os.listdir(there) == []

    def test_a_store_that_breaks_down(self, scene, there, file, small_chunks):
        store = GatedStore()
        scene.flow_store = scene.connector.stores[1] = store
        scene.state.loop.objects.store = store
        result = scene.view.receive_file(file)
        assert store.reached.wait(20)
        store.break_down()
        store.gate.set()
        with pytest.raises(ConnectError):
            result.get(20)
        assert os.listdir(there) == []


class TestAgain:
    def test_a_task_that_is_run_again_sends_the_file_again(self, scene, there, file, monkeypatch):
        """As after the loss of an engine: the same task opens another flow."""
        from ipkernel.engine import files as engine_files
        from ipkernel.engine import flows as engine_flows

        def twice(*args):
            first = engine_flows.Opening(args[0])
            flow = first.reader()
            first.tell()
            flow.read()
            return engine_files.receive(*args)

        original = FileResult._start
        monkeypatch.setattr(
            FileResult,
            "_start",
            lambda self, listener, f, args, block: original(self, listener, twice, args, block),
        )
        assert scene.view.send_file(file).get(20) == str(there / "data.bin")
        assert (there / "data.bin").read_bytes() == CONTENT
