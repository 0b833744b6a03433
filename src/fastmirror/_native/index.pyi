from typing_extensions import disjoint_base

@disjoint_base
class Index:
    """Who holds what: 64-bit fingerprints to small sets of node numbers.

    ``seed`` is secret to this process, so that nobody can choose keys that collide. ``len()`` is the number of keys,
    ``entries`` that of pairs of a key and a node (closed nodes count until they are swept), ``memory`` is in bytes.
    Packed keys are 8 bytes each, little-endian. Cost: 0.1 to 1 us per key; a growing table is copied at once.
    """

    def __new__(cls, seed: int) -> Index: ...
    @property
    def entries(self) -> int: ...
    @property
    def memory(self) -> int: ...
    def __len__(self) -> int: ...
    def open(self) -> int:
        """A number for one more node, hidden at first. Raises OverflowError when there are 32,766 already."""

    def show(self, node: int) -> None:
        """Let look-ups see this node. Raises ValueError for a number that is not open."""

    def close(self, node: int) -> None:
        """Hide this node at once and for ever; :meth:`sweep` takes its entries away. Raises ValueError."""

    def add(self, node: int, keys: bytes) -> None:
        """This node holds these packed keys, too. Raises ValueError."""

    def drop(self, node: int, keys: bytes) -> None:
        """This node does not hold these packed keys any more. Raises ValueError."""

    def find(self, key: int) -> list[int]:
        """The numbers of the nodes that hold this key and are shown, in no order."""

    def sweep(self, slots: int) -> bool:
        """Look at that many slots for entries of closed nodes and take them away; whether there is more to do."""
