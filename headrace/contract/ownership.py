"""Which of two claims on one record is the later one. Pure.

A **generation** is Kafka's number of the group's membership. It begins again at 1 when the group is made anew: when
Kafka has forgotten the group, or somebody has deleted it. So a claim also has an **epoch**: the offset, in the
journal's partition, of the mark that its owner wrote before its first claim there. An owner claims only after the group
has accepted a commit that followed the mark. A zombie's commit is refused, so the epochs of claims have the order in
which the partition has had its owners, whatever group that was. Claims of older versions have none.
"""

from typing import NamedTuple


class Ownership(NamedTuple):
    """Under which ownership of its partition a claim was made."""

    epoch: int | None  # None: made by an older version
    generation: int
    at: int = -1  # without an epoch: an offset in the journal. Claims with an epoch up to it may be earlier

    def is_later(self, other: "Ownership") -> bool:
        """Whether a claim of this ownership makes one of `other` on the same record void."""
        if self.epoch is not None and other.epoch is not None:
            return self.epoch > other.epoch
        if self.epoch is not None and other.at < self.epoch:
            return True  # the other claim was in the journal when this ownership began
        if other.epoch is not None and self.at < other.epoch:
            return False
        # Both versions are in the group: as the older one compares them.
        return self.generation > other.generation

    @property
    def age(self) -> tuple[int, int]:
        """Sorts ownerships, the longest ago first."""
        return (self.at if self.epoch is None else self.epoch), self.generation
