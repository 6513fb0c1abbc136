"""A cohort as a manifest names it: a mark of four bytes for each node, since every node reads it.
Pure.
"""

import hashlib
from collections.abc import Iterable

from shared.messages import MARK_BYTES


def marks(nodes: Iterable[str]) -> bytes:
    """The cohort: the nodes' marks in their order, which says nothing about the names'."""
    return b"".join(sorted(map(_mark, nodes)))


def names(cohort: bytes, node: str) -> bool:
    """Whether the node is in the cohort, or has the mark of one that is: beside a cohort of 10,000
    one in 430,000 has.
    """
    mark = _mark(node)
    at = cohort.find(mark)
    while at % MARK_BYTES and at >= 0:
        at = cohort.find(mark, at + 1)
    return at >= 0


def size(cohort: bytes) -> int:
    """How many nodes it names."""
    return len(cohort) // MARK_BYTES


def _mark(node: str) -> bytes:
    return hashlib.sha256(node.encode()).digest()[:MARK_BYTES]
