"""Charts: where their points and ticks lie."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training import charts

FINITE = st.floats(min_value=-50, max_value=50, allow_nan=False)


@given(losses=st.lists(FINITE, min_size=1, max_size=700))
def test_every_point_lies_inside_the_axes_and_lower_losses_lie_lower(losses: list[float]) -> None:
    chart = charts.loss_chart(list(enumerate(losses)))
    assert chart is not None
    assert len(chart.points) <= charts.MAX_POINTS
    assert (chart.points[0].number, chart.points[-1].number) == (0, len(losses) - 1)
    for point in chart.points:
        assert chart.left <= point.x <= chart.right
        assert chart.top <= point.y <= chart.bottom
    by_loss = sorted(chart.points, key=lambda point: point.loss)
    assert by_loss[0].y >= by_loss[-1].y
    assert [point.x for point in chart.points] == sorted(point.x for point in chart.points)


@given(losses=st.lists(FINITE, min_size=1, max_size=700))
def test_ticks_lie_inside_the_axes_and_differ(losses: list[float]) -> None:
    chart = charts.loss_chart(list(enumerate(losses)))
    assert chart is not None
    for ticks in (chart.x_ticks, chart.y_ticks):
        assert 1 <= len(ticks) <= 11
        assert len({tick.label for tick in ticks}) == len(ticks)
    assert all(chart.left <= tick.at <= chart.right for tick in chart.x_ticks)
    assert all(chart.top <= tick.at <= chart.bottom for tick in chart.y_ticks)


def test_the_untrained_model_is_marked_where_the_curve_has_it() -> None:
    with_it, without = charts.loss_chart([(0, 7.6), (1, 5.0)]), charts.loss_chart([(1, 7.6), (2, 5.0)])
    assert with_it is not None
    assert without is not None
    assert with_it.untrained == with_it.points[0]
    assert without.untrained is None


def test_losses_that_are_not_finite_are_left_out() -> None:
    chart = charts.loss_chart([(0, 7.6), (1, math.inf), (2, math.nan), (3, 4.0)])
    assert chart is not None
    assert [point.number for point in chart.points] == [0, 3]
    assert charts.loss_chart([(0, math.nan)]) is None
    assert charts.loss_chart([]) is None


def test_a_long_curve_marks_its_newest_point_alone() -> None:
    chart = charts.loss_chart([(number, 5.0) for number in range(200)])
    assert chart is not None
    assert chart.marks == (chart.points[-1],)


@pytest.mark.parametrize(
    ("low", "high", "at_most", "expected"),
    [(0, 10, 5, [0, 2, 4, 6, 8, 10]), (4.1, 7.7, 5, [5, 6, 7]), (0.12, 0.31, 4, [0.15, 0.2, 0.25, 0.3])],
)
def test_ticks_are_round_numbers(low: float, high: float, at_most: int, expected: list[float]) -> None:
    assert [value for value, _ in charts.ticks(low, high, at_most)] == pytest.approx(expected)


def test_ticks_are_written_with_the_decimals_that_tell_them_apart() -> None:
    assert [label for _, label in charts.ticks(7.62, 7.65, 5)] == ["7.62", "7.63", "7.64", "7.65"]
    assert [label for _, label in charts.ticks(0, 3, 7, least_step=1)] == ["0", "1", "2", "3"]


@given(values=st.lists(FINITE, min_size=2, max_size=500))
def test_a_sparkline_stays_inside_its_box(values: list[float]) -> None:
    line = charts.sparkline(values)
    assert line is not None
    for pair in line.line.split():
        x, y = map(float, pair.split(","))
        assert 0 <= x <= line.width
        assert 0 <= y <= line.height


def test_a_sparkline_needs_two_points() -> None:
    assert charts.sparkline([5.0]) is None
    assert charts.sparkline([5.0, math.nan]) is None
