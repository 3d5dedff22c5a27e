"""Engines are lost again and again, by tasks that end them: no wait lasts, no slot stays empty."""

from __future__ import annotations

import os

import pytest

from ipkernel import errors
from tests.integration.faults_support import PATIENCE, shared_cluster
from tests.support.storm import storm

#: How many engines are lost by tasks that die at once; ``make soak`` loses more.
ROUNDS = 1000


@pytest.mark.timeout(300)
@pytest.mark.skipif(os.name != "posix", reason="there are no such signals")
def test_a_storm(tmp_path):
    with storm(tmp_path) as raging:
        raging.rage(ROUNDS)
        raging.check()
        raging.linger()
        raging.check()
        assert sum(raging.ends.values()) == ROUNDS + 5
        print(raging.report())


def test_calls_that_may_be_run_again_survive_it(tmp_path):
    """Every other engine that gets a call dies, and other clients' calls are not affected."""

    def unlucky(marks, number):
        import os
        import pathlib
        import signal

        mark = pathlib.Path(marks, str(number))
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    with shared_cluster(tmp_path, n=2) as shared:
        view = shared.rc.load_balanced_view(retries=9)
        results = [view.apply_async(unlucky, tmp_path, number) for number in range(60)]
        assert [result.get(PATIENCE) for result in results] == list(range(60))
        assert min(result.attempts for result in results) == 2
        shared.check()


def test_an_engine_is_not_given_up_however_many_tasks_have_ended_it(tmp_path):
    """Only those count that have run nothing."""

    def dies():
        import os

        os._exit(9)

    with shared_cluster(tmp_path, n=1) as shared:
        for _ in range(20):
            with pytest.raises(errors.EngineLost, match="exited with code 9"):
                shared.rc[0].apply_async(dies).get(PATIENCE)
            shared.all_engines()
        shared.check()
