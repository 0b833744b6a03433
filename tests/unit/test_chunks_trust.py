"""What is believed of pieces, and who is blamed: the rules one by one."""

from __future__ import annotations

from fastmirror.chunks.trust import Convicted, Fault, Refused, Trust
from fastmirror.routing import Peer

A, B, C, D = (Peer(name, 1) for name in "abcd")
GOOD, BAD, WORSE = b"good", b"bad!", b"ugly"


def one(*peers: Peer) -> frozenset[Peer]:
    return frozenset(peers)


def trust_with(count: int, **lists: list[bytes]) -> Trust:
    """With whole lists of these peers, and nobody else to be found."""
    trust = Trust(count)
    for name, hashes in lists.items():
        trust.expect(Peer(name, 1))
        trust.told(Peer(name, 1), hashes)
        trust.ended(Peer(name, 1))
    trust.sought()
    return trust


def test_a_piece_is_believed_when_two_lists_say_its_hash() -> None:
    trust = trust_with(2, a=[GOOD, GOOD], b=[GOOD, GOOD])
    trust.holds(1, GOOD, one(C))
    assert (trust.frontier, trust.believed(1), trust.complete) == (0, True, False)
    trust.holds(0, GOOD, one(A, B))
    assert (trust.frontier, trust.take(), trust.complete, trust.undecided) == (2, [], True, False)


def test_a_piece_is_believed_when_one_list_and_another_peers_bytes_agree() -> None:
    trust = Trust(2)
    trust.expect(A)
    trust.told(A, [GOOD, GOOD])
    trust.holds(0, GOOD, one(B))
    trust.holds(1, GOOD, one(A))
    assert trust.frontier == 1  # its own word twice is one word


def test_bytes_wait_for_a_list_that_was_asked_for() -> None:
    trust = trust_with(1)
    trust.expect(A)
    trust.holds(0, GOOD, one(B))
    assert (trust.frontier, trust.take()) == (0, [])
    trust.told(A, [GOOD])
    assert trust.frontier == 1


def test_a_list_that_is_late_is_not_waited_for_and_still_counts() -> None:
    trust = trust_with(2)
    trust.expect(A)
    trust.holds(0, GOOD, one(B))
    assert trust.waits_for(A) == (0, 0)
    trust.late(A)
    trust.again()
    assert trust.frontier == 1
    assert trust.waits_for(A) == (0, -1)
    trust.told(A, [GOOD, GOOD])
    trust.holds(1, BAD, one(A))
    assert trust.take() == [Convicted(A, Fault.CONTRADICTED), Refused(1, one(A))]


def test_bytes_wait_while_holders_may_still_be_found() -> None:
    trust = Trust(1)
    trust.holds(0, GOOD, one(A))
    assert trust.frontier == 0
    trust.sought()
    assert trust.frontier == 1


def test_the_only_peer_is_taken_at_its_word() -> None:
    trust = trust_with(2, a=[GOOD, GOOD])
    trust.holds(0, GOOD, one(A))
    assert trust.frontier == 1
    trust.holds(1, BAD, one(A))  # but not if it contradicts itself
    assert trust.take() == [Convicted(A, Fault.CONTRADICTED), Refused(1, one(A))]


def test_without_any_list_bytes_are_taken_as_they_come() -> None:
    trust = trust_with(2)
    trust.holds(0, BAD, one(A, B))
    trust.holds(1, GOOD, one(A))
    assert trust.frontier == 2
    trust.whole(False)
    assert trust.hopeless


def test_a_list_that_ended_without_a_word_is_waited_for_no_more() -> None:
    trust = trust_with(1)
    trust.expect(A)
    trust.holds(0, GOOD, one(B))
    trust.ended(A)
    assert trust.frontier == 1


def test_what_a_list_said_before_it_broke_off_still_counts() -> None:
    trust = trust_with(2)
    trust.expect(A)
    trust.expect(B)
    trust.told(A, [GOOD])
    trust.ended(A)
    trust.told(B, [GOOD, GOOD])
    trust.holds(0, GOOD, one(C))
    trust.holds(1, GOOD, one(C))
    assert trust.frontier == 2


def test_wrong_bytes_are_refused_and_their_sender_is_convicted_by_two_lists() -> None:
    trust = trust_with(1, a=[GOOD], b=[GOOD])
    trust.holds(0, BAD, one(C))
    assert trust.take() == [Convicted(C, Fault.OUTVOTED), Refused(0, one(C))]
    assert (trust.frontier, trust.complete) == (0, False)
    trust.holds(0, GOOD, one(A))
    assert trust.frontier == 1


def test_bytes_that_are_not_what_the_peers_own_list_says_convict_it_alone() -> None:
    trust = Trust(1)
    trust.expect(A)
    trust.expect(B)
    trust.holds(0, BAD, one(A))
    assert trust.take() == []
    trust.told(A, [GOOD])
    assert trust.take() == [Convicted(A, Fault.CONTRADICTED)]
    trust.told(B, [GOOD])
    trust.sought()
    assert trust.take() == [Refused(0, one(A))]


def test_a_wrong_list_is_convicted_when_two_others_agree_also_before_bytes_came() -> None:
    trust = trust_with(2, a=[GOOD, GOOD], b=[GOOD, BAD], c=[GOOD, GOOD])
    assert trust.take() == [Convicted(B, Fault.OUTVOTED)]
    trust.holds(1, GOOD, one(B))
    assert trust.believed(1)


def test_wrong_bytes_of_several_peers_convict_none_of_them() -> None:
    trust = trust_with(1, a=[GOOD], b=[GOOD])
    trust.holds(0, BAD, one(A, C))
    assert trust.take() == [Refused(0, one(A, C))]
    assert trust.convicted == {}


def test_right_bytes_of_several_peers_speak_for_none_of_them() -> None:
    trust = Trust(1)
    trust.expect(A)
    trust.told(A, [BAD])
    trust.holds(0, BAD, one(B, C))  # B may have made up the part that makes it so
    assert trust.frontier == 0


def test_two_against_one_of_three_is_settled_and_one_against_one_asks_for_a_third() -> None:
    trust = trust_with(1, a=[BAD], b=[GOOD])
    trust.holds(0, BAD, one(A))
    assert (trust.take(), trust.frontier, trust.wants_list, trust.undecided) == ([], 0, True, True)
    trust.expect(C)
    assert not trust.undecided
    trust.told(C, [GOOD])
    assert trust.take() == [Convicted(A, Fault.OUTVOTED), Refused(0, one(A))]
    trust.holds(0, GOOD, one(B))
    assert (trust.frontier, trust.wants_list) == (1, False)


def test_two_who_agree_against_two_who_do_not_convict_nobody() -> None:
    trust = trust_with(1, a=[BAD], b=[WORSE], c=[GOOD], d=[GOOD])
    trust.holds(0, BAD, one(A))
    assert (trust.take(), trust.frontier, trust.undecided) == ([], 0, True)
    trust.expect(Peer("e", 1))
    trust.told(Peer("e", 1), [GOOD])
    assert trust.take() == [Convicted(A, Fault.OUTVOTED), Convicted(B, Fault.OUTVOTED), Refused(0, one(A))]


def test_one_against_one_is_settled_by_the_digest_of_the_whole() -> None:
    trust = trust_with(2, a=[GOOD, BAD], b=[GOOD, GOOD])
    trust.holds(0, GOOD, one(A))
    trust.holds(1, GOOD, one(B))
    assert (trust.frontier, trust.undecided) == (1, True)
    trust.whole(True)
    assert (trust.frontier, trust.take()) == (2, [Convicted(A, Fault.DISPROVED)])


def test_if_the_whole_is_wrong_the_open_pieces_are_tried_as_another_list_has_them() -> None:
    trust = trust_with(3, a=[GOOD, BAD, GOOD], b=[GOOD, GOOD, GOOD])
    trust.holds(0, GOOD, one(A))
    trust.holds(1, BAD, one(A))
    trust.holds(2, GOOD, one(B))
    trust.whole(False)
    assert trust.take() == [Refused(1, one(A))]
    assert not trust.hopeless
    trust.holds(1, WORSE, one(C))
    assert trust.take() == [Refused(1, one(C))]
    trust.holds(1, GOOD, one(C))  # another peer's bytes count as much
    assert trust.take()[:1] == [Convicted(C, Fault.CONTRADICTED)]
    trust.whole(True)
    assert trust.frontier == 3
    assert trust.convicted == {C: Fault.CONTRADICTED, A: Fault.DISPROVED}


def test_if_every_list_was_tried_there_is_no_hope() -> None:
    trust = trust_with(1, a=[BAD], b=[WORSE])
    trust.holds(0, BAD, one(A))
    trust.whole(False)
    assert trust.take() == [Refused(0, one(A))]
    trust.holds(0, WORSE, one(B))
    trust.whole(False)
    assert trust.hopeless


def test_what_nobody_can_give_is_not_waited_for_for_ever() -> None:
    trust = trust_with(1, a=[BAD], b=[WORSE])
    trust.holds(0, BAD, one(A))
    trust.whole(False)
    trust.take()
    for _ in range(100):
        trust.holds(0, BAD, one(A, C))
        if trust.hopeless or trust.undecided:
            break
        trust.take()
    assert trust.undecided
    trust.whole(False)
    assert trust.hopeless


def test_bytes_that_are_refused_again_and_again_end_it() -> None:
    trust = trust_with(1, a=[GOOD], b=[GOOD])
    count = 0
    while not trust.hopeless and count < 100:
        count += 1
        trust.holds(0, BAD, one(C, D))
        assert trust.take() == [Refused(0, one(C, D))]
    assert 10 < count < 100


def test_a_list_that_disagrees_later_does_not_take_back_what_was_shown() -> None:
    trust = trust_with(1, a=[GOOD])
    trust.holds(0, GOOD, one(A))
    assert trust.frontier == 1
    trust.expect(B)
    trust.told(B, [BAD])
    assert (trust.take(), trust.believed(0)) == ([], True)
    trust.whole(True)
    assert trust.take() == [Convicted(B, Fault.DISPROVED)]


def test_what_a_convicted_peer_says_counts_no_more() -> None:
    trust = trust_with(3, a=[GOOD, GOOD, GOOD], b=[GOOD, GOOD, BAD], c=[GOOD, GOOD, GOOD])
    assert trust.take() == [Convicted(B, Fault.OUTVOTED)]
    trust = trust_with(2, a=[GOOD, GOOD], b=[BAD, BAD])
    trust.holds(0, BAD, one(B))
    trust.holds(1, WORSE, one(B))
    assert trust.take() == [Convicted(B, Fault.CONTRADICTED), Refused(1, one(B)), Refused(0, one(B))]


def test_two_lists_are_wanted_and_no_more_where_they_agree() -> None:
    trust = Trust(1)
    assert trust.wants_list
    trust.expect(A)
    assert trust.wants_list
    trust.expect(B)
    assert not trust.wants_list
    trust.ended(B)
    assert trust.wants_list


def test_entries_beyond_the_last_piece_change_nothing() -> None:
    trust = trust_with(1, a=[GOOD, BAD], b=[GOOD])
    trust.holds(0, GOOD, one(C))
    assert (trust.frontier, trust.convicted) == (1, {})


def test_content_without_pieces_is_complete() -> None:
    trust = trust_with(0)
    assert (trust.complete, trust.undecided, trust.frontier) == (True, False, 0)


def test_a_list_that_broke_off_is_no_list_any_more_but_one_on_its_way_is() -> None:
    trust = Trust(3)
    trust.expect(A)
    trust.expect(B)
    trust.told(A, [GOOD])
    assert not trust.wants_list
    trust.ended(A)
    assert trust.wants_list
    trust.expect(C)
    assert not trust.wants_list


def test_a_list_is_wanted_for_what_two_disagree_about_also_while_more_holders_are_looked_for() -> None:
    trust = Trust(1)
    for peer, said in ((A, GOOD), (B, BAD)):
        trust.expect(peer)
        trust.told(peer, [said])
    assert trust.wants_list  # there are no bytes yet, but who sends them will be one of those two
    trust.holds(0, GOOD, one(A))
    assert (trust.wants_list, trust.undecided, trust.frontier) == (True, False, 0)
    trust.sought()
    assert trust.undecided
    trust.expect(C)
    assert not trust.wants_list
    trust.told(C, [GOOD])
    assert (trust.wants_list, trust.frontier) == (False, 1)  # B is convicted: two lists are left, and agree


def test_a_piece_that_one_peer_vouches_for_stays_open_until_nobody_is_left_to_be_asked() -> None:
    trust = Trust(1)
    trust.expect(A)
    trust.told(A, [GOOD])
    trust.holds(0, GOOD, one(A))
    assert (trust.frontier, trust.undecided, trust.wants_list) == (0, False, True)
    trust.sought()
    assert trust.frontier == 1
