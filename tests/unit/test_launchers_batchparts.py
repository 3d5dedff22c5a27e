"""What launchers for batch systems are made of, each by itself: options, templates, commands, states."""

from __future__ import annotations

import os
import string

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from ipkernel.cluster.spec import read_spec
from ipkernel.errors import ConfigurationError
from ipkernel.launchers.batchoptions import BatchOptions, common_options, specification
from ipkernel.launchers.batchsystem import Answer, BatchSystem, JobState, QueryFailed
from ipkernel.launchers.interfaces import Share
from ipkernel.launchers.jobqueue import run_command
from ipkernel.launchers.jobscript import exit_code
from ipkernel.launchers.template import Template

# ----------------------------------------------------------------------------------------- options


OPTIONS = common_options("sub", "stat", "del", nodes=True)


def read(**given):
    return BatchOptions.read("sys", OPTIONS, given)


def test_defaults_of_the_specification_are_those_of_the_code():
    found = read_spec("sys", specification(OPTIONS)).options
    assert list(found) == [option.name for option in OPTIONS]
    assert read(**{name: option.default for name, option in found.items()}) == read()
    assert all(option.help for option in found.values())


def test_values_are_read():
    options = read(
        walltime="01:02:03", submit="ssh login 'my sub'", extra=["-a", "-b\n-c"], setup="x\n\ny\r"
    )
    assert options.walltime == 3723
    assert options.submit == ("ssh", "login", "my sub")
    assert options["extra"] == ("-a", "-b", "-c")
    assert options["setup"] == ("x", "y")
    assert options["python"] == os.sys.executable
    assert read(nodes=2).nodes == 2


@pytest.mark.parametrize(
    ("given", "seconds", "text"),
    [
        ("36:00:00", 129600, "36:00:00"),
        ("1-12:00:00", 129600, "36:00:00"),
        ("90m", 5400, "01:30:00"),
        ("2 h", 7200, "02:00:00"),
        ("", 0, ""),
    ],
)
def test_ways_to_write_a_walltime(given, seconds, text):
    options = read(walltime=given)
    assert (options.walltime, options["walltime"]) == (seconds, text)


def test_spans_have_units():
    options = read(drain_margin="5m", poll="0.5 min")
    assert (options["drain_margin"], options["poll"]) == (300.0, 30.0)
    assert read(drain_margin=0)["drain_margin"] == 0.0


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("walltime", "90", "write hours, minutes and seconds such as '01:30:00', or such as 90m"),
        ("walltime", 90, "write hours, minutes and seconds"),
        ("drain_margin", "-1", "write a number of seconds from 0, or such as 90s, 30m or 12h"),
        ("poll", 0, "write a number of seconds above 0, or such as 90s"),
        ("walltime", "00:00:00", "write hours, minutes"),
        ("walltime", "1:60:00", "write hours, minutes"),
        ("queue", "a\nb", "write it on one line"),
        ("submit", "'sub", "it is no command line"),
        ("cancel", " ", "write the name of the command"),
    ],
)
def test_bad_values_say_where_they_stand(name, value, why):
    with pytest.raises(ConfigurationError) as caught:
        read(**{name: value})
    text = str(caught.value)
    assert text.startswith(f"option {name!r} in section [sys] is {value!r}: {why}")


@given(st.integers(0, 300), st.integers(0, 40))
def test_engines_are_split_over_jobs(n, limit):
    shares = read(engines_per_job=limit).plan(n)
    assert sum(share.n for share in shares) == n
    assert all(0 < share.n <= (limit or n) for share in shares)
    assert len(shares) == (-(-n // limit) if limit else min(n, 1))


def test_somebody_must_say_how_many_engines():
    assert read(engines_per_job=4).plan(None) == [Share(4)]
    with pytest.raises(ConfigurationError, match=r"'engines_per_job = 16' in section \[sys\]"):
        read().plan(None)


# --------------------------------------------------------------------------------------- templates


def test_placeholders_stand_in_braces():
    text = "@{a} $HOME ${HOME} me@example.org @@{a} @{ b } ${x[@]} ${@}"
    assert Template(text, "t").render({"a": "1", "b": "@{a}"}) == (
        "1 $HOME ${HOME} me@example.org @{a} @{a} ${x[@]} ${@}"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x\n\n@{quue}", "t, line 3: unknown placeholder @{quue}; did you mean @{queue}?"),
        ("@{zzz}", "t, line 1: unknown placeholder @{zzz}; there are: n, queue"),
        ("@{queue\n}", "t, line 1: '@{queue' is not closed: write '}' after the name"),
        ("@{n}", "t has no @{queue}: write it on a line of its own where the queue shall be"),
    ],
)
def test_errors_in_templates_are_pointed_at(text, message):
    with pytest.raises(ConfigurationError) as caught:
        Template(text, "t").render({"queue": "q", "n": "2"}, ["queue"])
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "# @{command}",
            "line 1: @{command} stands for several lines: write nothing else on its line",
        ),
        ("x\nexec @{command}\n", "line 2: @{command} stands for several lines"),
        ("@{command}\n@{environment}", "line 2: @{environment} must stand before @{command}"),
        ("@{environment}\n@{directives}", "line 2: @{directives} must stand before @{environment}"),
        ("@{command}\n\n@{command}", "line 3: @{command} stands there twice"),
    ],
)
def test_what_stands_for_several_lines_has_its_place(text, message):
    values = {"directives": "", "environment": "x\ny", "command": "a\nb"}
    with pytest.raises(ConfigurationError) as caught:
        Template(text, "t").render(values)
    assert message in str(caught.value)
    good = "#!/bin/sh\r\n@{directives}\n  @{ environment }\nif true; then\n@{command}\nfi"
    assert Template(good, "t").render(values).endswith("if true; then\na\nb\nfi")


@given(st.text(), st.dictionaries(st.text(string.ascii_lowercase, min_size=1), st.text()))
def test_a_text_without_placeholders_stays(text, values):
    text = text.replace("@{", "")
    assert Template(text, "t").render(values) == text


@given(st.text())
def test_an_escaped_text_stays(text):
    text = text.replace("@@{", "")
    assert Template(text.replace("@{", "@@{"), "t").render({}) == text


def test_the_users_template_comes_first(tmp_path):
    file = tmp_path / "sys.template"
    assert Template.find(file, "own", "Sys").text == "own"
    file.write_text("theirs @{x}")
    with pytest.raises(ConfigurationError, match=r"sys\.template, line 1: unknown"):
        Template.find(file, "own", "Sys").render({})
    file.write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match="cannot read the template .*: it is not UTF-8"):
        Template.find(file, "own", "Sys")


# ----------------------------------------------------------------------------- commands and states


def test_commands_are_run():
    answer = run_command(["sh", "-c", 'echo "$LC_ALL $X"; echo no >&2; exit 3'], {"X": "y"})
    assert answer == Answer(3, "C y\n", "no\n")
    assert answer.complaint == "no"
    assert evolve(answer, err="", out="").complaint == "it exited with code 3"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b'{"event": "exited", "code": 7}', 7),
        (b'{"event": "exited", "code": "7"}', None),
        (b'{"event": "said", "text": "\\"exited\\""}', None),
        (b'"exited"', None),
        (b'{"exited"', None),
        (b"", None),
    ],
)
def test_exit_codes_are_told_by_a_line(line, code):
    assert exit_code(line) == code


def test_a_system_without_its_own_methods_says_little():
    class Plain(BatchSystem):
        section = "plain"
        option_list = OPTIONS

    system = Plain({})
    assert system.stop(["1"]) == system.kill(["1"]) == [["del", "1"]]
    assert system.signal("1", "SIGINT") == system.history("1") == system.probe() == []
    assert system.read_history("1", Answer(0, "x")) is None
    assert system.read_job(Answer(0, "your job is 12\n")) == "12"
    assert str(QueryFailed("x")) == "x"


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (JobState("pending"), "pending"),
        (JobState("pending", "Priority"), "pending (Priority)"),
        (JobState("running", "n1"), "running on n1"),
        (JobState("running"), "running"),
        (JobState("ending"), "ending"),
        (JobState.exited(0), "ended: exited with code 0"),
        (JobState.exited(137), "ended: was killed by SIGKILL"),
        (JobState.exited(-9), "ended: was killed by SIGKILL"),
    ],
)
def test_states_in_words(state, text):
    assert state.text == text
