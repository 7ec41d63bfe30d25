"""The best tree against every tree, and its expectation against simulation."""

import random
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.drafting.draft_tree import best_trees, chain_acceptance, checked_acceptance

CHANCES = st.floats(0, 0.3)
TABLES = st.lists(st.lists(CHANCES, min_size=1, max_size=3), min_size=1, max_size=3)


def _chance(path, table):
    chance = 1.0
    for depth, rank in enumerate(path):
        chance *= table[depth][rank]
    return chance


def _every_tree(table, most_nodes):
    """Return all sets of paths closed under parents, of up to so many nodes."""
    found = {frozenset()}
    grown = {frozenset()}
    for _ in range(most_nodes):
        grown = {
            tree | {(*parent, rank)}
            for tree in grown
            for parent in ((), *tree)
            if len(parent) < len(table)
            for rank in range(len(table[len(parent)]))
            if (*parent, rank) not in tree
        }
        found |= grown
    return found


@pytest.mark.parametrize("seed", range(6))
def test_no_tree_of_up_to_seven_nodes_beats_the_greedy_one(seed):
    """Brute force over all trees of three ranks and three depths agrees, for every number of nodes."""
    generator = random.Random(seed)
    table = [[generator.uniform(0.01, 0.33) for _ in range(2 + seed % 2)] for _ in range(3)]
    best = dict.fromkeys(range(8), 0.0)
    for tree in _every_tree(table, 7):
        tokens = 1 + sum(_chance(path, table) for path in tree)
        best[len(tree)] = max(best[len(tree)], tokens)
    for tree in best_trees(checked_acceptance(table), most_nodes=7):
        assert tree.tokens_per_round == pytest.approx(best[len(tree.paths)], rel=1e-12)


@given(TABLES, st.integers(1, 31))
def test_trees_are_closed_and_as_large_as_they_say(table, most_nodes):
    """Parents stand before children, rows count the root, and the beam covers ranks and expansions."""
    for tree in best_trees(checked_acceptance(table), most_nodes=most_nodes):
        places = {(): -1} | {path: i for i, path in enumerate(tree.paths)}
        assert len(places) == tree.rows
        assert all(places[path[:-1]] < places[path] for path in tree.paths)
        assert tree.depth == max(map(len, tree.paths))
        assert tree.top_k >= 1 + max(path[-1] for path in tree.paths)
        for depth in range(1, tree.depth):
            parents = {path[:-1] for path in tree.paths if len(path) == depth + 1}
            assert len(parents) <= tree.top_k
        tokens = 1 + sum(_chance(path, table) for path in tree.paths)
        assert tree.tokens_per_round == pytest.approx(tokens)


@pytest.mark.parametrize("acceptance", [0.3, 0.7, 0.95])
def test_a_chain_emits_the_geometric_sum(acceptance):
    """With one acceptance a at each of k depths, tau is (1 - a^(k + 1)) / (1 - a)."""
    trees = best_trees(chain_acceptance([acceptance] * 6), most_nodes=6)
    for k, tree in enumerate(trees, start=1):
        assert tree.top_k == 1
        expected = (1 - acceptance ** (k + 1)) / (1 - acceptance)
        assert tree.tokens_per_round == pytest.approx(expected)


def test_simulated_rounds_emit_what_the_tree_promises():
    """Walking the tree with random outcomes emits tau tokens on average, within 4 standard errors."""
    table = checked_acceptance([(0.55, 0.2, 0.1), (0.5, 0.15), (0.4, 0.2, 0.1)])
    tree = best_trees(table, most_nodes=9)[-1]
    nodes, generator, rounds = set(tree.paths), random.Random(1), 40_000
    emitted = []
    for _ in range(rounds):
        path = ()
        while len(path) < len(table):
            ranks = table[len(path)]
            left = 1 - sum(ranks)
            (rank,) = generator.choices([*range(len(ranks)), None], [*ranks, left])
            if rank is None or (*path, rank) not in nodes:
                break
            path = (*path, rank)
        emitted.append(len(path) + 1)
    mean = sum(emitted) / rounds
    variance = sum((n - mean) ** 2 for n in emitted) / rounds
    assert abs(mean - tree.tokens_per_round) < 4 * (variance / rounds) ** 0.5


def test_what_is_never_accepted_is_never_drafted():
    """A rank of acceptance 0 adds no node, however many are allowed."""
    assert best_trees(checked_acceptance([(0.0, 0.0)]), most_nodes=5) == ()
    trees = best_trees(checked_acceptance([(0.5, 0.0), (0.0,)]), most_nodes=5)
    assert [tree.paths for tree in trees] == [((0,),)]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ([], "no depth"),
        ([[]], "no rank"),
        ([[0.5], [float("nan")]], "acceptance nan at depth 2"),
        ([[-0.1]], "acceptance -0.1 at depth 1"),
        ([[1.1]], "acceptance 1.1"),
        ([[0.7, 0.4]], "sum to 1.1"),
    ],
)
def test_what_is_no_table_of_chances_is_refused(table, words):
    """The message names the depth and the value."""
    with pytest.raises(ValueError, match=words):
        checked_acceptance(table)


def test_every_combination_of_certain_guesses_is_a_chain():
    """Acceptance 1 keeps parents before children in spite of equal products."""
    for depths, nodes in product((1, 4), (1, 3)):
        tree = best_trees(chain_acceptance([1.0] * depths), most_nodes=nodes)[-1]
        assert tree.tokens_per_round == 1 + min(depths, nodes)
