"""Which slots hold their resources, and when slots are added, while nodes come and go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sweeper.execution.capacity import NodeResources, SlotPlan
from sweeper.execution.placement import UNPLACED_S, Node, PlacementWatch


def a_plan(slots: int, most: int | None = None) -> SlotPlan:
    return SlotPlan(slots=slots, workers_per_trial=1, cpus_per_worker=1, gpus_per_worker=0, text="", most=most)


def node(name: str, cpus: float, free: float) -> Node:
    return Node(
        id=f"id of {name}",
        whole=NodeResources(name=name, cpus=cpus, gpus=0),
        free=NodeResources(name=name, cpus=free, gpus=0),
    )


def test_a_node_that_joins_is_told_and_used_at_the_second_look() -> None:
    watch = PlacementWatch(a_plan(2, most=6), 0.0)
    first = watch.look([node("n1", 2, 0)], {0, 1}, 2, {}, 1.0)
    assert (first.held, first.add, first.lines) == (2, 0, ())
    both = [node("n1", 2, 0), node("n2", 3, 3)]
    second = watch.look(both, {0, 1}, 2, {}, 4.0)
    assert (second.add, second.lines) == (0, ("node n2 (3 CPU) has joined the cluster",))
    third = watch.look(both, {0, 1}, 2, {}, 7.0)
    assert (third.held, third.add, third.lines) == (2, 3, ("3 more trials at once, 5 in all",))


def test_a_node_that_leaves_is_told_and_its_slots_are_not_held() -> None:
    watch = PlacementWatch(a_plan(4, most=9), 0.0)
    watch.look([node("n1", 2, 0), node("n2", 2, 0)], {0, 1, 2, 3}, 4, {}, 1.0)
    looked = watch.look([node("n1", 2, 0)], {0, 1}, 4, {}, 4.0)
    assert (looked.held, looked.add) == (2, 0)
    assert looked.lines == ("node n2 (2 CPU) has left the cluster; its trials go on elsewhere",)
    # The slots that wait get the node that comes, so that none is added.
    for now_s in (7.0, 10.0, 13.0):
        assert watch.look([node("n1", 2, 0), node("n3", 2, 2)], {0, 1}, 4, {}, now_s).add == 0
    assert watch.look([node("n1", 2, 0), node("n3", 2, 0)], {0, 1, 2, 3}, 4, {}, 16.0).held == 4


def test_slots_of_the_plan_count_as_held_while_they_start() -> None:
    watch = PlacementWatch(a_plan(2), 0.0)
    there = [node("n1", 2, 2)]
    assert watch.look(there, set(), 2, {}, 3.0).held == 2
    assert watch.look(there, {0}, 2, {}, 6.0).held == 2
    assert watch.look(there, {0}, 2, {}, UNPLACED_S + 1).held == 1


def test_the_device_of_a_slot_that_is_set_aside_is_left_free() -> None:
    watch = PlacementWatch(a_plan(2, most=9), 0.0)
    for now_s in (3.0, 6.0, 9.0):
        looked = watch.look([node("n1", 2, 1)], {0}, 2, {1}, now_s)
        assert (looked.held, looked.add) == (1, 0)


@given(
    st.integers(1, 4),
    st.integers(1, 8),
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=8),
)
def test_no_more_slots_than_the_limit_or_the_free_places(slots: int, most: int, looks: list[tuple[int, int]]) -> None:
    slots = min(slots, most)
    watch, count = PlacementWatch(a_plan(slots, most), 0.0), slots
    for number, (whole, used) in enumerate(looks):
        free, placed = max(0, whole - used), set(range(min(count, used)))
        add = watch.look([node("n1", whole, free)], placed, count, {}, 3.0 * number).add
        assert 0 <= add <= max(0, free - (count - len(placed)))
        count += add
        assert count <= most
