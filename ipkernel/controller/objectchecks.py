"""What must be true of the directory of objects when it is settled; for tests."""

from __future__ import annotations

from collections import Counter

from ipkernel.controller.entries import Entry, Place
from ipkernel.controller.objects import Directory
from ipkernel.controller.sources import MAX_EACH, MAX_RECEIVERS


def validate_objects(objects: Directory) -> None:
    """Check every table against every other.

    Raises:
        AssertionError: They disagree.
    """
    assert not objects.touched
    assert not objects.missing
    _check_tables(objects)
    _check_moves(objects)
    for entry in objects.entries.values():
        _check_entry(objects, entry)


def _check_tables(objects: Directory) -> None:
    entries = objects.entries
    held = {(h, o) for h, there in objects.at_host.items() for o in there}
    assert held == {(h, o) for o, entry in entries.items() for h in entry.holders}
    provided = {(c, o) for c, there in objects.with_client.items() for o in there}
    assert provided == {(e.client, o) for o, e in entries.items() if e.client}
    referred = {(r, o) for r, mine in objects.references.items() for o in mine}
    assert referred == {(r, o) for o, entry in entries.items() for r in entry.references}
    assert all(objects.with_client.values())
    assert all(objects.references.values())
    for there in (objects.at_host, objects.with_client, objects.references):
        assert all(entries[o] is e for mine in there.values() for o, e in mine.items())


def _check_moves(objects: Directory) -> None:
    servers = objects.sources.servers
    moves: Counter[tuple[Place, int]] = Counter()
    for entry in objects.entries.values():
        for place, seeker in entry.seekers.items():
            if place > 0 and seeker.source in servers:
                moves[seeker.source, place] += 1
    counted = {(s, p): n for s, one in servers.items() for p, n in one.receivers.items()}
    assert moves == counted
    for place, server in servers.items():
        assert server.receivers, "a queue without anybody who is served"
        assert len(server.receivers) <= MAX_RECEIVERS
        assert all(0 < count <= MAX_EACH for count in server.receivers.values())
        for object_id, entry in server.queue.items():
            assert objects.entries[object_id] is entry
            assert place in entry.queued


def _check_entry(objects: Directory, entry: Entry) -> None:
    if not objects.rebuilding:
        assert entry.wanted, "nobody refers to it, and it was not freed"
        assert entry.lost == (not entry.available)
    servers = objects.sources.servers
    assert all(entry.id in servers[place].queue for place in entry.queued)
    providing = [p for p, seeker in entry.seekers.items() if seeker.source == -entry.client]
    assert not entry.client or len(providing) <= 1
    for place, seeker in entry.seekers.items():
        assert place not in entry.holders
        assert bool(seeker.asked) != bool(seeker.source)
        if seeker.asked:
            queued = any(p not in seeker.avoid for p in entry.queued)
            client = -entry.client in [s.source for s in entry.seekers.values()]
            hope = objects.rebuilding and not entry.holders
            assert hope or queued or entry.coming(place) or client, "nobody thinks of this one"
