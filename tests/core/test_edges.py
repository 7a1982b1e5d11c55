"""Edges as drawn, compared with edges between single tasks: `{(upstream, downstream)}`."""

from __future__ import annotations

import random
from typing import Any

import pytest

from flux.dag import DAG
from flux.edges import chain
from flux.errors import AuthoringError, Cycle
from flux.operator import BaseOperator
from flux.task_group import TaskGroup


class Step(BaseOperator):
    def execute(self, context: Any) -> None:
        """Do nothing."""


def steps(names: str) -> list[Step]:
    return [Step(task_id=name) for name in names]


def edges(dag: DAG) -> set[tuple[str, str]]:
    tasks = dag.structure().tasks
    return {(task.task_id, tasks[after].task_id) for task in tasks for after in task.downstream}


def pairs(text: str) -> set[tuple[str, str]]:
    """`"a-b c-d"` as edges."""
    return {(before, after) for before, _, after in (edge.partition("-") for edge in text.split())}


@pytest.fixture
def dag() -> DAG:
    return DAG("sales")


@pytest.mark.parametrize(
    ("draw", "expected"),
    [
        (lambda a, b, c, d: a >> b >> c, "a-b b-c"),
        (lambda a, b, c, d: c << b << a, "a-b b-c"),
        (lambda a, b, c, d: a >> [b, c] >> d, "a-b a-c b-d c-d"),
        (lambda a, b, c, d: a << [b, c] << d, "b-a c-a d-b d-c"),
        (lambda a, b, c, d: [a, b] >> c, "a-c b-c"),
        (lambda a, b, c, d: (a, (b, {c})) >> d, "a-d b-d c-d"),
        (lambda a, b, c, d: [a, b] << c, "c-a c-b"),
        (lambda a, b, c, d: a.set_downstream([b, c]), "a-b a-c"),
        (lambda a, b, c, d: a.set_upstream(b), "b-a"),
        (lambda a, b, c, d: a.output >> b.output["x"] >> [c.output, d], "a-b b-c b-d"),
        (lambda a, b, c, d: a >> [], ""),
        (lambda a, b, c, d: chain(a, b, c, d), "a-b b-c c-d"),
        (lambda a, b, c, d: chain(a, [b, c], d), "a-b a-c b-d c-d"),
        (lambda a, b, c, d: chain([a, b], [c, d]), "a-c b-d"),
        (lambda a, b, c, d: chain([a, b], (c, [d])), "a-c b-d"),
        (lambda a, b, c, d: chain(a), ""),
    ],
)
def test_what_is_drawn_is_what_is_meant(dag: DAG, draw: Any, expected: str) -> None:
    with dag:
        draw(*steps("abcd"))
    assert edges(dag) == pairs(expected)


def test_drawing_an_edge_twice_is_the_same_as_once(dag: DAG) -> None:
    with dag:
        a, b = steps("ab")
        a >> b
        a >> b
        b << a
    assert dag.structure().tasks[0].downstream == (1,)


def test_a_task_cannot_depend_on_itself(dag: DAG) -> None:
    with dag:
        a, b = steps("ab")
        with pytest.raises(Cycle, match=r"test_edges\.py:\d+: Task 'a' would depend on itself"):
            b >> [a] >> a


def test_edges_across_dags_are_refused_naming_both(dag: DAG) -> None:
    a = Step(task_id="a", dag=dag)
    b = Step(task_id="b", dag=DAG("other"))
    with pytest.raises(AuthoringError, match=r"test_edges\.py:\d+: 'a' is in DAG 'sales' and 'b' in DAG 'other'"):
        a >> b
    assert edges(dag) == set()


def test_what_is_no_task_is_refused(dag: DAG) -> None:
    with dag:
        a = Step(task_id="a")
    for value in (5, "b", None, dag):
        with pytest.raises(AuthoringError, match="beside >> or <<"):
            a >> value
        with pytest.raises(AuthoringError, match="beside >> or <<"):
            [value] >> a  # type: ignore[operator]


def test_a_function_that_was_not_called_is_named(dag: DAG) -> None:
    def report() -> None:
        """Do nothing."""

    with pytest.raises(AuthoringError, match=r"Call it: report\(…\)"):
        Step(task_id="a", dag=dag) >> report


def test_chained_lists_need_equal_lengths(dag: DAG) -> None:
    with dag:
        a, b, c = steps("abc")
    with pytest.raises(AuthoringError, match="list of 2 is followed by one of 1"):
        chain([a, b], [c])


# Groups


def test_an_edge_at_a_group_is_one_at_its_first_or_last_tasks(dag: DAG) -> None:
    with dag:
        a, z = steps("az")
        with TaskGroup("g") as group:
            b, c, d = steps("bcd")
            [b, c] >> d
        a >> group >> z
    assert edges(dag) == pairs("a-g.b a-g.c g.b-g.d g.c-g.d g.d-z")


def test_an_edge_may_be_drawn_before_the_group_is_full(dag: DAG) -> None:
    with dag:
        a, z = steps("az")
        with TaskGroup("g") as group:
            a >> group >> z
            b, c = steps("bc")
            c >> b
    assert edges(dag) == pairs("a-g.c g.c-g.b g.b-z")


def test_groups_join_groups_and_nest(dag: DAG) -> None:
    with dag:
        with TaskGroup("x") as x:
            steps("ab")
        with TaskGroup("y") as y:
            with TaskGroup("p") as p:
                steps("c")
            with TaskGroup("q") as q:
                steps("de")
            p >> q
        x >> y
    assert edges(dag) == pairs("x.a-y.p.c x.b-y.p.c y.p.c-y.q.d y.p.c-y.q.e")


def test_an_edge_out_of_the_group_does_not_take_a_task_from_its_last(dag: DAG) -> None:
    """`b >> z` leaves the group: b is still one of its last tasks."""
    with dag:
        a, z, y = steps("azy")
        with TaskGroup("g") as group:
            b, _ = steps("bc")
        b >> z
        a >> b
        group >> y
        a >> group
    assert edges(dag) == pairs("g.b-z a-g.b g.b-y g.c-y a-g.c")


def test_an_edge_between_inner_groups_counts_for_the_outer_ones_ends(dag: DAG) -> None:
    with dag:
        a, z = steps("az")
        with TaskGroup("g") as group:
            with TaskGroup("one") as one:
                steps("bc")
            with TaskGroup("two") as two:
                steps("d")
            e = Step(task_id="e")
            one >> two
            two >> e
        a >> group >> z
    assert edges(dag) == pairs("a-g.one.b a-g.one.c g.one.b-g.two.d g.one.c-g.two.d g.two.d-g.e g.e-z")


def test_what_goes_into_an_empty_group_comes_out_of_it(dag: DAG) -> None:
    with dag:
        a, b, z = steps("abz")
        with TaskGroup("outer") as outer, TaskGroup("inner"):
            pass
        with TaskGroup("more") as more:
            pass
        [a, b] >> outer >> more >> z
    assert edges(dag) == pairs("a-z b-z")


def test_a_circle_through_an_empty_group_is_a_cycle(dag: DAG) -> None:
    with dag:
        a = Step(task_id="a")
        with TaskGroup("g") as group:
            pass
        a >> group >> a
    with pytest.raises(Cycle, match="a -> a"):
        dag.structure()


def test_a_circle_of_groups_is_a_cycle(dag: DAG) -> None:
    with dag:
        with TaskGroup("x") as x:
            steps("a")
        with TaskGroup("y") as y:
            steps("b")
        x >> y >> x
    with pytest.raises(Cycle, match=r"x\.a -> y\.b -> x\.a"):
        dag.structure()


def test_a_group_and_something_inside_it_cannot_be_joined(dag: DAG) -> None:
    with dag:
        with TaskGroup("g") as group, TaskGroup("h"):
            a = Step(task_id="a")
        a >> group
    with pytest.raises(AuthoringError, match=r"'g\.h\.a' >> 'g' joins a group to something inside it"):
        dag.structure()


def test_groups_of_two_dags_cannot_be_joined(dag: DAG) -> None:
    with dag, TaskGroup("g") as group:
        steps("a")
    with DAG("other"), TaskGroup("h") as other:
        steps("b")
    with pytest.raises(AuthoringError, match="tasks of two DAGs"):
        group >> other


def test_group_edges_mean_the_same_in_whatever_order_they_are_drawn() -> None:
    """Ends of groups depend on other group edges; the result must not depend on the order of the lines."""
    source = random.Random(3)
    for _ in range(60):
        drawn = [(source.randrange(9), source.randrange(9)) for _ in range(6)]
        found = []
        for _ in range(3):
            source.shuffle(drawn)
            found.append(_random_groups(drawn))
        assert found[0] == found[1] == found[2]


def _random_groups(drawn: list[tuple[int, int]]) -> set[tuple[str, str]]:
    dag = DAG("random")
    nodes: list[Any] = []
    with dag:
        for outer in "xyz":
            with TaskGroup(outer) as group:
                with TaskGroup("in") as inner:
                    steps("ab")
                nodes += [group, inner, Step(task_id="c")]
    for low, high in drawn:
        if low // 3 < high // 3 or (low // 3 == high // 3 and (low % 3, high % 3) == (1, 2)):
            nodes[low] >> nodes[high]
    return edges(dag)
