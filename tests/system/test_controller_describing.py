"""Properties and resources of engines, through real doors, with pretended hosts."""

from __future__ import annotations

import pytest

from ipkernel.errors import KernelError
from ipkernel.wire.messages import (
    MAX_PROPERTIES,
    Assign,
    EngineJoined,
    Finished,
    Kind,
    Outcome,
    Submit,
    Terms,
    decode_reason,
)
from ipkernel.wire.records import (
    Description,
    EngineProperties,
    HostGrant,
    HostHello,
    pack,
    unpack,
)
from ipkernel.wire.tub import call, connect, open_channel
from tests.support.reactor import inreactor
from tests.system.controller_support import FakeHost, world


class RichHost(FakeHost):
    """Each of its engines has a gpu, and they share a licence; they keep what they get."""

    working = False

    async def join(self, furl, slots=2, **more):
        self.door = await connect(self.tub, furl)
        hello = HostHello(
            host=self.name,
            pid=2,
            slots=slots,
            resources={"gpu": 1},
            host_resources={"licence": 1},
            **more,
        )
        self.grant = unpack(HostGrant, await call(self.door, "register", self, pack(hello)))
        self.channel = await open_channel(self.tub, self.door, self.grant.ticket, self.make_channel)
        for number in self.grant.engines:
            self.channel.send(EngineJoined(number, self.name, 100 + number, 1))
        return self


async def describe(client, engines, **said):
    order = pack(Description(engines=engines, **said))
    return unpack(EngineProperties, await call(client.door, "describe_engines", order)).properties


def submit(client, number, **terms):
    client.channel.send(Submit(client.tid(number), Kind.APPLY, 1, terms=Terms(**terms)), b"x")


@inreactor
async def test_properties_are_kept_and_asked_for():
    async with world() as w:
        host = await w.host(2, RichHost)
        client = await w.client()
        await client.until(lambda: len(client.of(EngineJoined)) + len(client.grant.engines) >= 2)
        put = {"os": "linux", "n": 3, "x": None}
        assert await describe(client, [1], put=put) == [put]
        assert await describe(await w.client(), [0, 1]) == [{}, put]
        assert await describe(client, [1], drop=["n", "y"], put={"x": 1.5}) == [
            {"os": "linux", "x": 1.5}
        ]
        submit(client, 0, where={"os": "linux"})
        await host.until(lambda: host.of(Assign))
        assert host.of(Assign)[0].engine == 1
        assert await describe(client, [0, 1], clear=True) == [{}, {}]


@inreactor
async def test_what_cannot_be_said_of_engines_changes_nothing():
    async with world() as w:
        await w.host(1, RichHost)
        client = await w.client()
        with pytest.raises(KernelError, match="1000 engines are named, but there are 1"):
            await describe(client, [0] * 1000)
        with pytest.raises(KernelError, match="there is no engine 7"):
            await describe(client, [0, 7], put={"a": 1})
        full = {f"p{n}": n for n in range(MAX_PROPERTIES)}
        assert await describe(client, [0], put=full) == [full]
        with pytest.raises(KernelError, match="engine 0 may have 64 properties"):
            await describe(client, [0], put={"one more": 1})
        assert await describe(client, [0], put={"p0": "other"}) == [full | {"p0": "other"}]


@inreactor
async def test_hosts_say_what_their_engines_have():
    async with world() as w:
        host = await w.host(2, RichHost)
        client = await w.client()
        await client.until(lambda: len(client.of(EngineJoined)) + len(client.grant.engines) >= 2)
        for number in range(2):
            submit(client, number, resources={"gpu": 1, "licence": 1})
        submit(client, 2, resources={"gpu": 2})
        await client.until(lambda: client.of(Finished))
        [(ended, payload)] = [item for item in client.inbox if isinstance(item[0], Finished)]
        assert (ended.task, ended.outcome) == (client.tid(2), Outcome.IMPOSSIBLE)
        assert decode_reason(payload).text == "no engine has 2 gpu; engine 0 has 1"
        await host.until(lambda: host.of(Assign))
        [first] = host.of(Assign)
        host.done(first)
        await host.until(lambda: len(host.of(Assign)) == 2)
