"""Who is let in when connections are many."""

from fastmirror.http.limits import Admission


def test_one_address_meets_its_cap_and_this_node_never_does() -> None:
    admission = Admission(100, 3, frozenset({"10.0.0.5"}))
    for address in ("10.0.0.9", "10.0.0.5", "127.0.0.7", "::1"):
        for _ in range(3):
            assert admission.admits(address)
            admission.opened(address)
    assert not admission.admits("10.0.0.9") and admission.turned_away == 1
    assert admission.admits("10.0.0.5") and admission.admits("127.0.0.7") and admission.admits("::1")
    assert admission.admits("10.0.0.10")


def test_closing_gives_the_place_back_and_leaves_no_count_behind() -> None:
    admission = Admission(2, 1, frozenset())
    admission.opened("10.0.0.9")
    assert not admission.full and not admission.admits("10.0.0.9")
    admission.opened("10.0.0.10")
    assert admission.full
    admission.closed("10.0.0.9")
    admission.closed("10.0.0.10")
    assert admission.admits("10.0.0.9") and admission.total == 0 and not admission._open
