"""What became of a task that was to be aborted, by what its engine says."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ipkernel.controller.core import _fate_of
from ipkernel.wire.messages import Fate, Finished, Outcome, Reason, encode_reason


@given(st.binary(max_size=100))
@example(b"\x82\xa4kind\xa1a\xa4text\xa1\xff")  # text that is not UTF-8
@example(b"\x81\xa1x" + b"\x91" * 100_000)  # nested too deep
def test_an_engine_may_say_anything(payload: bytes) -> None:
    message = Finished(1, Outcome.ABORTED, 0, 1.0, 2.0, len(payload))
    assert isinstance(_fate_of(message, payload), Fate)


@pytest.mark.parametrize("fate", [Fate.KILLED, Fate.INTERRUPTED])
def test_what_it_says_of_an_abort_counts(fate: Fate) -> None:
    payload = encode_reason(Reason("aborted", "x", fate=fate))
    assert _fate_of(Finished(1, Outcome.ABORTED, 0, 1.0, 2.0, len(payload)), payload) is fate
    assert _fate_of(Finished(1, Outcome.OK, 0, 1.0, 2.0, len(payload)), payload) is Fate.ENDED
