"""Durations as pages, progress lines, messages and the demo print them."""

import pytest

from trainer.cli.durations import format_clock, format_duration, format_limit, format_short_duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(41.2, "41 s"), (89.9, "90 s"), (90, "2 min"), (3599, "1 h 0 min"), (12_000, "3 h 20 min"), (187_000, "2 d 3 h")],
)
def test_a_page_says_a_duration_in_two_words(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(8.4, "8 s"), (99.4, "99 s"), (99.5, "2 min"), (5969, "99 min"), (7500, "2 h 05")]
)
def test_a_progress_line_says_a_duration_in_few_signs(seconds, text):
    assert format_short_duration(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.5, "0.5 s"), (90, "90 s"), (120, "2 minutes"), (150, "2.5 minutes")])
def test_a_limit_is_said_as_it_was_given(seconds, text):
    assert format_limit(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (61.9, "1:01"), (3605.0, "60:05")])
def test_a_clock_shows_minutes_and_seconds(seconds, text):
    assert format_clock(seconds) == text
