"""The policy of adaptive clusters: bounds, haste, and that it never swings."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ipkernel.cluster.adapting import Grow, Load, Policy, Rules, Seen, Shrink
from ipkernel.errors import ConfigurationError


def engines(*loads, host=0, completed=0):
    return tuple(Seen(number, host, load, completed) for number, load in enumerate(loads))


def policy(minimum=1, maximum=8, **more):
    return Policy(Rules(minimum, maximum, **more))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"minimum": 3, "maximum": 2}, r"minimum of engines \(3\) is more than the maximum \(2\)"),
        ({"minimum": -1, "maximum": 2}, "whole number"),
        ({"minimum": 0, "maximum": 0}, "from 1 to 4096"),
        ({"minimum": 0, "maximum": 5000}, "whole number"),
        ({"minimum": 0, "maximum": 2, "tasks_per_engine": 0}, "tasks_per_engine must be"),
        ({"minimum": 0, "maximum": 2, "idle_after": -1}, "idle_after must be"),
        ({"minimum": 0, "maximum": 2, "grow_after": "x"}, "grow_after must be"),
        ({"minimum": 0, "maximum": 2, "grow_after": float("nan")}, "grow_after must be"),
    ],
)
def test_rules_that_are_none(arguments, text):
    with pytest.raises(ConfigurationError, match=text):
        Rules(**arguments)


def test_the_minimum_is_there_at_once():
    assert policy(3).decide(0, Load(())) == Grow(3)
    assert policy(3).decide(0, Load(engines(0), coming=2)) is None


def test_growth_needs_a_backlog_that_lasts():
    chosen = policy(1, 8, grow_after=2)
    busy = Load(engines(3), tasks=5)
    assert chosen.decide(0, busy) is None
    assert chosen.decide(1, Load(engines(1), tasks=1)) is None  # it was gone in between
    assert chosen.decide(2, busy) is None
    assert chosen.decide(3.9, busy) is None
    assert chosen.decide(4, busy) == Grow(4)
    assert chosen.decide(4.1, Load(engines(3), coming=4, tasks=5)) is None


def test_never_more_than_the_maximum():
    chosen = policy(1, 4, grow_after=0)
    assert chosen.decide(0, Load(engines(9), tasks=1000)) == Grow(3)


def test_tasks_per_engine():
    chosen = policy(0, 100, grow_after=0, tasks_per_engine=10)
    assert chosen.decide(0, Load((), tasks=1)) == Grow(1)
    assert chosen.decide(0, Load((), tasks=95)) == Grow(10)


def test_engines_go_when_they_have_been_idle():
    chosen = policy(1, 8, idle_after=10)
    load = Load(engines(0, 0, 1), tasks=1)
    assert chosen.decide(0, load) is None
    assert chosen.decide(9, load) is None
    assert chosen.decide(10, load) == Shrink(0, (0, 1))


def test_one_that_worked_between_two_looks_was_not_idle():
    chosen = policy(0, 8, idle_after=10)
    chosen.decide(0, Load(engines(0)))
    assert chosen.decide(9, Load(engines(0, completed=5))) is None
    assert chosen.decide(12, Load(engines(0, completed=5))) is None
    assert chosen.decide(19, Load(engines(0, completed=5))) == Shrink(0, (0,))


def test_what_is_not_there_yet_goes_first():
    chosen = policy(0, 8, idle_after=10)
    assert chosen.decide(0, Load(engines(1, 0), coming=3, tasks=3)) == Shrink(2, ())


def test_hosts_that_are_idle_go_first():
    chosen = policy(0, 8, idle_after=0)
    seen = (Seen(0, 1, 1), Seen(1, 1), Seen(2, 2), Seen(3, 2))
    assert chosen.decide(0, Load(seen, tasks=2)) == Shrink(0, (2, 3))


def test_too_many_go_though_they_work():
    chosen = policy(0, 2)
    assert chosen.decide(0, Load(engines(1, 4, 0, 2), tasks=9)) == Shrink(0, (0, 2))


def test_engines_that_start_are_not_idle():
    chosen = policy(0, 8, idle_after=0)
    assert chosen.decide(0, Load((Seen(0, ready=False),))) is None


def loads():
    seen = st.builds(
        Seen,
        engine=st.integers(0, 40),
        host=st.integers(0, 3),
        load=st.integers(0, 5),
        completed=st.integers(0, 3),
        ready=st.booleans(),
    )
    return st.builds(
        Load,
        st.lists(seen, max_size=30, unique_by=lambda one: one.engine).map(tuple),
        coming=st.integers(0, 10),
        tasks=st.integers(0, 200),
    )


@given(
    st.integers(0, 20),
    st.integers(1, 20),
    st.lists(st.tuples(st.floats(0, 100), loads()), min_size=1, max_size=8),
)
@settings(max_examples=300)
def test_whatever_it_sees(minimum, more, seen):
    rules = Rules(minimum, minimum + more, grow_after=5, idle_after=20)
    chosen = Policy(rules)
    now = 0.0
    idle_since: dict[int, float] = {}
    for pause, load in seen:
        now += pause
        for one in load.engines:
            if one.load or not one.ready:
                idle_since.pop(one.engine, None)
            else:
                idle_since.setdefault(one.engine, now)
        idle_since = {
            number: since
            for number, since in idle_since.items()
            if number in {one.engine for one in load.engines}
        }
        decision = chosen.decide(now, load)
        if isinstance(decision, Grow):
            assert decision.count > 0
            assert load.total + decision.count <= rules.maximum
            assert load.total < chosen.wanted(load.tasks)
        elif isinstance(decision, Shrink):
            assert 0 <= decision.coming <= load.coming
            assert decision.coming or decision.engines
            left = load.total - decision.coming - len(decision.engines)
            assert left >= rules.minimum
            if load.total <= rules.maximum:
                assert left >= chosen.wanted(load.tasks)
                assert all(now - idle_since[one] >= 20 for one in decision.engines)
            else:
                assert left == rules.maximum


class Cluster(RuleBasedStateMachine):
    """A cluster that does what the policy says, with tasks that come and go."""

    @initialize(minimum=st.integers(0, 3), more=st.integers(1, 6), slow=st.booleans())
    def begin(self, minimum, more, slow):
        self.rules = Rules(minimum, minimum + more, grow_after=2, idle_after=10)
        self.policy = Policy(self.rules)
        self.slow = slow
        self.now = 0.0
        self.tasks = 0
        self.coming = 0
        self.engines: dict[int, int] = {}
        self.last: type | None = None
        self.last_load = 0

    def look(self):
        busy = min(self.tasks, len(self.engines))
        seen = tuple(
            Seen(number, load=int(place < busy), completed=done)
            for place, (number, done) in enumerate(sorted(self.engines.items()))
        )
        decision = self.policy.decide(self.now, Load(seen, self.coming, self.tasks))
        if isinstance(decision, Grow):
            if self.slow:
                self.coming += decision.count
            else:
                self.join(decision.count)
        elif isinstance(decision, Shrink):
            self.coming -= decision.coming
            for number in decision.engines:
                assert not any(one.engine == number and one.load for one in seen)
                del self.engines[number]
        return decision

    def join(self, count):
        for _ in range(count):
            free = next(n for n in range(100) if n not in self.engines)
            self.engines[free] = 0

    @rule(count=st.integers(1, 30))
    def submit(self, count):
        self.tasks += count

    @rule(count=st.integers(1, 30))
    def finish(self, count):
        count = min(count, self.tasks)
        self.tasks -= count
        for place, number in enumerate(sorted(self.engines)):
            if place < count:
                self.engines[number] += 1

    @rule()
    def arrive(self):
        self.join(self.coming)
        self.coming = 0

    @rule(number=st.integers(0, 8))
    def die(self, number):
        self.engines.pop(number, None)

    @rule(seconds=st.sampled_from([0.5, 1.0, 3.0, 20.0]))
    def wait(self, seconds):
        self.now += seconds
        self.look()

    @rule()
    def settle(self):
        """If nothing changes for long, it is as large as it should be, and stays so."""
        for _ in range(4):
            self.join(self.coming)
            self.coming = 0
            self.now += 20
            self.look()
        self.join(self.coming)
        self.coming = 0
        wanted = self.policy.wanted(self.tasks)
        assert len(self.engines) == wanted
        self.now += 20
        assert self.look() is None

    @invariant()
    def within_bounds(self):
        assert len(self.engines) + self.coming <= self.rules.maximum


TestCluster = Cluster.TestCase
TestCluster.settings = settings(max_examples=60, stateful_step_count=30)
