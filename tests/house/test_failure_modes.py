"""docs/failure-modes.md holds: its bounds, its tests, its settings and metrics, and its text."""

from tools import failure_modes


def test_every_row_holds_and_the_page_says_so() -> None:
    problems, page = failure_modes.problems_and_page()
    assert not problems
    assert failure_modes.PAGE.read_text() == page


def test_a_row_that_does_not_hold_is_told() -> None:
    problems: list[str] = []
    row = {
        "event": "a peer freezes", "happens": "", "sees": "", "bound": 0.01, "means": "", "setting": "nowhere",
        "virtual": "frozen in mid-body", "real": ["mid-body", "frozen"], "metric": "nothing",
        "test": "tests/none.py::test_none",
    }  # fmt: skip
    measured = [
        {"case": "x in mid-body", "fault": fault, "gap": gap} for fault, gap in (("frozen", 0.6), ("healthy", 0.1))
    ]
    failure_modes._row(row, 3.0, measured, problems)
    assert [problem.partition(": ")[2].split()[0] for problem in problems] == ["0.256", "0.600", "its", "no", "no"]
