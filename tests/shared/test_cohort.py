import hashlib

from hypothesis import given
from hypothesis import strategies as st

from shared import cohort

NAMES = st.sets(st.from_regex(r"[a-z0-9]{1,12}", fullmatch=True), max_size=20)


def test_a_mark_is_the_begin_of_the_digest_of_a_name() -> None:
    expected = sorted(hashlib.sha256(name).digest()[:4] for name in (b"ann", b"bob", b"cid"))
    assert cohort.marks(["cid", "ann", "bob"]) == b"".join(expected)
    assert cohort.size(cohort.marks(["cid", "ann", "bob"])) == 3


@given(NAMES, NAMES)
def test_it_names_its_nodes_and_no_others(members: set[str], others: set[str]) -> None:
    named = cohort.marks(members)
    assert all(cohort.names(named, node) for node in members)
    assert not any(cohort.names(named, node) for node in others - members)


def test_what_lies_across_two_marks_is_none() -> None:
    mark = cohort.marks(["ann"])
    assert not cohort.names(b"xx" + mark + b"xx", "ann")
    assert cohort.names(b"xx" + mark + b"xx" + mark, "ann")
    assert not cohort.names(mark[:3], "ann")
