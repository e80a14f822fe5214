"""Which slots hold their resources while nodes come and go, and when slots are added. Pure; imports no Ray."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sweeper.execution.capacity import NodeResources, SlotPlan

UNPLACED_S = 120.0
"""Seconds after which a slot of the first plan that never got its resources counts as waiting for them."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node of the cluster that is up."""

    id: str
    whole: NodeResources
    free: NodeResources

    @property
    def busy(self) -> bool:
        return self.free.cpus < self.whole.cpus or self.free.gpus < self.whole.gpus


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Result of a look at the cluster."""

    held: int
    """Number of slots that hold their resources."""
    add: int
    """Number of slots to add."""
    lines: tuple[str, ...]
    """For the user: nodes that have come or left, slots to be added."""


class PlacementWatch:
    """Follows nodes and slots from look to look."""

    def __init__(self, plan: SlotPlan, now_s: float) -> None:
        """Begin with the slots of a plan, which are about to get their resources."""
        self._plan, self._start_s = plan, now_s
        self._nodes: dict[str, Node] | None = None
        self._placed_once: set[int] = set()
        self._room = 0
        """Slots for which there was room at the last look. A lost slot is about to get its resources again, and for a
        moment they look free: slots are added for room that is there twice."""

    def look(
        self, nodes: Sequence[Node], placed: Collection[int], slots: int, set_aside: Collection[int], now_s: float
    ) -> Placement:
        """Compare the cluster with the last look.

        Args:
            placed: slots with reserved resources.
            slots: number of all slots, set aside or not.
            set_aside: slots that do no job any more. Their devices are free, and are left free.
        """
        self._placed_once |= set(placed)
        starting = self._plan.slots if now_s - self._start_s < UNPLACED_S else 0
        held = {*placed, *(set(range(min(slots, starting))) - self._placed_once)} - set(set_aside)
        waiting = slots - len(set_aside) - len(set(placed) - set(set_aside))
        room = self._plan.fitting(node.free for node in nodes) - waiting - len(set_aside)
        most = self._plan.slots if self._plan.most is None else self._plan.most
        room = min(room, most - (slots - len(set_aside)))
        add, self._room = max(0, min(room, self._room)), room
        if add:
            self._room = 0
        lines = self._changes(nodes)
        if add:
            lines.append(f"{add} more trial{'s' * (add > 1)} at once, {len(held) + add} in all")
        return Placement(held=len(held), add=add, lines=tuple(lines))

    def _changes(self, nodes: Sequence[Node]) -> list[str]:
        before, self._nodes = self._nodes, {node.id: node for node in nodes}
        if before is None:
            return []
        left = [node for name, node in before.items() if name not in self._nodes]
        come = [node for name, node in self._nodes.items() if name not in before]
        return [
            *(f"node {_described(node)} has left the cluster; its trials go on elsewhere" for node in left),
            *(f"node {_described(node)} has joined the cluster" for node in come),
        ]


def _described(node: Node) -> str:
    whole = node.whole
    return f"{whole.name} ({whole.cpus:g} CPU" + (f", {whole.gpus:g} GPU)" if whole.gpus else ")")
