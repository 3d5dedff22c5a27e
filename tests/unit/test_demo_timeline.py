"""The picture of a run: what becomes a box, which are joined, and that the SVG says so."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipkernel.client.timeline import Box, boxes, join_slivers, render, ticks, timeline_svg

ZERO = datetime(2026, 3, 1, 12, tzinfo=UTC)
SVG = "{http://www.w3.org/2000/svg}"


def task(engine, start, end, **more):
    return {
        "msg_id": f"t{engine}-{start}",
        "started": ZERO + timedelta(seconds=start),
        "completed": ZERO + timedelta(seconds=end),
        "engine_id": engine,
        "status": "ok",
        **more,
    }


def task_rects(svg):
    """Return (element, its tooltip) of each task's box, in the order drawn."""
    found = []
    for rect in ET.fromstring(svg).iter(f"{SVG}rect"):
        title = rect.find(f"{SVG}title")
        if title is not None:
            found.append((rect, title.text))
    return found


def test_times_are_counted_from_the_first_start():
    made = boxes([task(1, 5, 7), task(0, 4, 6)])
    assert [(b.engine, b.start, b.end) for b in made] == [(0, 0.0, 2.0), (1, 1.0, 3.0)]


def test_labels_and_groups_follow_the_order_of_the_metadata():
    made = boxes([task(1, 0, 1), task(0, 0, 1)], labels=["a", "b"], groups=["g", "h"])
    assert [(b.engine, b.title, b.group) for b in made] == [(0, "b", "h"), (1, "a", "g")]


def test_without_labels_the_task_id_is_shown():
    assert boxes([task(3, 0, 1)])[0].title == "task t3-0"


@pytest.mark.parametrize("missing", ["started", "completed", "engine_id"])
def test_a_task_that_never_ran_is_left_out(missing):
    assert boxes([task(0, 0, 1, **{missing: None}), task(0, 1, 2)], labels=["x", "y"]) == [
        Box(0, 0.0, 1.0, "y")
    ]


def test_a_failed_task_is_marked():
    made = boxes([task(0, 0, 1, status="error"), task(0, 1, 2)])
    assert [b.failed for b in made] == [True, False]
    (first, tip), (second, _) = task_rects(render(made))
    assert first.get("class") == "b f"
    assert tip.endswith("failed")
    assert second.get("class") == "b"


def test_a_clock_that_stepped_back_gives_no_negative_box():
    assert boxes([task(0, 2, 1)])[0].end == 0.0


def test_slivers_are_joined_and_counted():
    many = [Box(0, i * 1e-6, (i + 1) * 1e-6, f"n{i}") for i in range(1000)]
    (one,) = join_slivers(many, 1.0)
    assert (one.count, one.title) == (1000, "n0")
    assert one.end == pytest.approx(1e-3)


@pytest.mark.parametrize("other", [{"engine": 1}, {"group": "h"}, {"failed": True}])
def test_what_differs_is_not_joined(other):
    pair = [Box(0, 0.0, 0.1, "a", "g"), Box(**{**_fields(Box(0, 0.1, 0.2, "b", "g")), **other})]
    assert join_slivers(pair, 1.0) == pair


def _fields(box):
    return {name: getattr(box, name) for name in ("engine", "start", "end", "title", "group")}


@given(
    st.lists(st.tuples(st.integers(0, 3), st.floats(0, 100), st.floats(0, 5)), max_size=60),
    st.floats(1e-6, 10),
)
def test_joining_loses_no_task_and_no_time(tasks, sliver):
    made = boxes([task(e, s, s + d) for e, s, d in tasks])
    joined = join_slivers(made, sliver)
    assert sum(b.count for b in joined) == len(tasks)
    assert max((b.end for b in joined), default=0) == max((b.end for b in made), default=0)
    assert [b.engine for b in joined] == sorted(b.engine for b in joined)


@given(st.floats(1e-4, 1e6), st.integers(5, 20))
def test_ticks_are_round_start_at_zero_and_end_inside(span, wanted):
    made = ticks(span, wanted)
    assert made[0] == 0.0
    assert made[-1] <= span * 1.000001 + 1e-9
    assert 1 < len(made) <= wanted + 2


def test_ticks_of_nothing():
    assert ticks(0.0) == [0.0]
    assert ticks(10.0) == [float(i) for i in range(11)]


def test_the_picture_has_a_row_per_engine_and_a_box_per_task():
    svg = render(boxes([task(e, i, i + 0.5) for e in (0, 1, 7) for i in range(4)]))
    drawn = task_rects(svg)
    assert len(drawn) == 12
    assert len({rect.get("y") for rect, _ in drawn}) == 3
    texts = [text.text for text in ET.fromstring(svg).iter(f"{SVG}text")]
    assert {"engine 0", "engine 1", "engine 7", "12 tasks on 3 engines in 3.50 s"} <= set(texts)


def test_boxes_lie_to_scale():
    drawn = task_rects(render(boxes([task(0, 0, 1), task(0, 2, 4)])))
    (first, _), (second, _) = drawn
    left, width = float(first.get("x")), float(first.get("width"))
    assert float(second.get("width")) == pytest.approx(2 * width, rel=1e-3)
    assert float(second.get("x")) == pytest.approx(left + 2 * width, rel=1e-3)


def test_groups_have_colours_of_their_own_and_a_legend():
    svg = render(boxes([task(0, 0, 1), task(0, 1, 2), task(0, 2, 3)], groups=["a", "b", "a"]))
    colours = [rect.get("fill") for rect, _ in task_rects(svg)]
    assert colours[0] == colours[2] != colours[1]
    assert {"a", "b"} <= {text.text for text in ET.fromstring(svg).iter(f"{SVG}text")}


def test_more_groups_than_colours_share_grey():
    names = [f"group {i}" for i in range(40)]
    made = boxes([task(0, i, i + 1 - i / 100) for i in range(40)], groups=names)
    svg = render(made)
    assert "others" in {text.text for text in ET.fromstring(svg).iter(f"{SVG}text")}
    assert len({rect.get("fill") for rect, _ in task_rects(svg)}) < 20


def test_text_of_users_is_escaped():
    evil = '</title><script>alert("x")</script>&'
    svg = render(boxes([task(0, 0, 1)], labels=[evil], groups=[evil]), title=evil)
    assert "<script" not in svg
    assert task_rects(svg)[0][1].startswith(evil)


def test_the_picture_refers_to_no_other_file():
    svg = render(boxes([task(0, 0, 1)]))
    assert svg.count("http") == 1, "the SVG namespace only"
    assert "href" not in svg


def test_an_empty_run_is_a_valid_picture():
    assert task_rects(render([])) == []


def test_a_run_of_many_tasks_stays_small():
    svg = render([Box(0, i * 1e-5, (i + 1) * 1e-5, str(i)) for i in range(100_000)])
    assert len(task_rects(svg)) < 3000
    assert "100000 tasks on 1 engines" in svg


def test_timeline_svg_writes_the_file_and_returns_its_path(tmp_path):
    target = tmp_path / "run.svg"
    target.write_text("old")
    assert timeline_svg([task(0, 0, 1)], str(target), title="Täsks") == target
    assert "Täsks" in ET.fromstring(target.read_text("utf-8")).findtext(f"{SVG}text")


def test_timeline_svg_says_when_it_cannot_write(tmp_path):
    with pytest.raises(OSError, match="no-such-folder"):
        timeline_svg([task(0, 0, 1)], tmp_path / "no-such-folder" / "run.svg")
