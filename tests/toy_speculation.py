"""A toy speculative loop over the engine's pure parts, and the exact law it must follow.

Target and draft are tables (`toy_model.random_table`). The law is computed from the definitions of
the processors in plain Python, prefix by prefix, without any of the engine's code.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import torch

from serving.engine.acceptance import verify
from serving.engine.draft_tree import DraftTree, TreeBuilder
from serving.engine.grammar import path_masks
from serving.engine.processors import RowHistories, TokenHistory, processed
from serving.engine.sampling import SamplingParams, choices, raced

Text = tuple[int, ...]


class ToyGrammar:
    """A `TokenMask` over an automaton: `states[state][token]` is the next state, or absent.

    The text is finished in a state that is never left. As a `Grammar` it starts others of its kind.
    """

    error = None

    def __init__(self, states: Sequence[dict[int, int]], vocabulary_size: int) -> None:
        self._states = states
        self._vocabulary_size = vocabulary_size
        self._trail = [0]

    def start(self) -> "ToyGrammar":
        return ToyGrammar(self._states, self._vocabulary_size)

    @property
    def is_finished(self) -> bool:
        return set(self._states[self._trail[-1]].values()) == {self._trail[-1]}

    def advance(self, token: int) -> bool:
        following = self._states[self._trail[-1]].get(token)
        if following is not None:
            self._trail.append(following)
        return following is not None

    def roll_back(self, num_tokens: int) -> None:
        assert num_tokens < len(self._trail)
        del self._trail[len(self._trail) - num_tokens :]

    def allowed(self) -> torch.Tensor:
        mask = torch.zeros(self._vocabulary_size, dtype=torch.bool)
        mask[list(self._states[self._trail[-1]])] = True
        return mask


def plain_distribution(
    logits: Sequence[float],
    params: SamplingParams,
    prompt: Sequence[int],
    generated: Sequence[int],
    *,
    end_ids: Collection[int] = (),
    allowed: Collection[int] | None = None,
) -> list[float]:
    """Apply every processor by its definition, in the documented order."""
    values = list(logits)
    for token in {*prompt, *generated}:
        factor = params.repetition_penalty
        values[token] = values[token] / factor if values[token] > 0 else values[token] * factor
    for token in set(generated):
        values[token] -= params.frequency_penalty * generated.count(token)
        values[token] -= params.presence_penalty
    for token, bias in params.logit_bias.items():
        values[token] += bias
    banned = set(params.bad_token_ids)
    if len(generated) < params.min_tokens:
        banned |= set(end_ids)
    possible = set(range(len(values))) if allowed is None else set(allowed)
    possible = possible - banned or possible
    values = [v if i in possible else -math.inf for i, v in enumerate(values)]
    highest = max(values)
    if params.is_greedy:
        return [float(i == values.index(highest)) for i in range(len(values))]
    order = sorted(values, reverse=True)
    if 0 < params.top_k < len(values):
        values = [v if v >= order[params.top_k - 1] else -math.inf for v in values]
    weights = [math.exp((v - highest) / params.temperature) for v in values]
    probs = [w / sum(weights) for w in weights]
    mass, last = 0.0, 1.0
    for prob in sorted(probs, reverse=True):
        if mass >= params.top_p:
            break
        mass, last = mass + prob, prob
    if params.top_p < 1:
        probs = [p if p >= last else 0.0 for p in probs]
    floor = params.min_p * max(probs)
    probs = [p if p >= floor else 0.0 for p in probs]
    return [p / sum(probs) for p in probs]


@dataclass
class Toy:
    """Target, draft and request of one experiment."""

    target: torch.Tensor
    draft: torch.Tensor
    params: SamplingParams
    prompt: Text = (0,)
    end_ids: Text = ()
    automaton: Sequence[dict[int, int]] | None = None
    _memo: dict[object, torch.Tensor] = field(default_factory=dict)
    blind_trees: dict[Text, DraftTree] = field(default_factory=dict)

    @property
    def vocabulary_size(self) -> int:
        return self.target.shape[-1]

    def law(self, num_tokens: int) -> dict[Text, float]:
        """Return the exact probability of every possible text, shorter where a grammar ends it."""
        law = {(): 1.0}
        for _ in range(num_tokens):
            longer = {}
            for text, prob in law.items():
                if self._is_finished(text):
                    longer[text] = prob
                    continue
                for token, share in enumerate(self._exact(text)):
                    longer[*text, token] = prob * share
            law = {text: prob for text, prob in longer.items() if prob > 0}
        return law

    def _state(self, text: Text) -> int:
        state = 0
        for token in text:
            state = self.automaton[state][token]
        return state

    def _is_finished(self, text: Text) -> bool:
        if self.automaton is None:
            return False
        state = self._state(text)
        return set(self.automaton[state].values()) == {state}

    def _exact(self, text: Text) -> list[float]:
        allowed = None
        if self.automaton is not None:
            allowed = self.automaton[self._state(text)].keys()
        last = (*self.prompt, *text)[-1]
        return plain_distribution(
            self.target[last].tolist(),
            self.params,
            self.prompt,
            text,
            end_ids=self.end_ids,
            allowed=allowed,
        )

    def row_logits(self, table: torch.Tensor, text: Text, tree: DraftTree) -> torch.Tensor:
        """Return the processed logits of all rows of a tree behind `text`."""
        key = (id(table), text, tree.tokens, tree.parents)
        if key not in self._memo:
            history = TokenHistory(self.prompt, end_ids=self.end_ids)
            history.extend(text)
            masks = None
            if self.automaton is not None:
                grammar = ToyGrammar(self.automaton, self.vocabulary_size)
                assert all(grammar.advance(token) for token in text)
                masks = path_masks(grammar, tree.row_paths)
            last = [(*self.prompt, *text, *path)[-1] for path in tree.row_paths]
            rows = RowHistories(history, tree.row_paths, masks)
            self._memo[key] = processed(table[last], self.params, rows)
        return self._memo[key]

    def draft_logits(self, text: Text, path: Text) -> torch.Tensor:
        """Return the draft's processed logits behind a drafted path. Shape: (1, V)."""
        return self.row_logits(self.draft, text, DraftTree.chain(path))[-1:]

    def run(self, make_tree: "TreeMaker", num_tokens: int, times: torch.Tensor) -> Text:
        """Generate a text; `times[position]` are its races, two more than tokens. (positions, V)."""
        text: Text = ()
        while len(text) < num_tokens:
            start = len(text)
            tree = make_tree(self, text, times[start:])
            rows = self.row_logits(self.target, text, tree)
            races = [times[start + depth] for depth in (0, *tree.depths)]
            verdict = verify(tree, choices(rows, self.params, races))
            text += (*(tree.tokens[node] for node in verdict.nodes), verdict.token)
        return text[:num_tokens]


TreeMaker = Callable[[Toy, Text, torch.Tensor], DraftTree]
"""Drafts two tokens deep behind a text, given the races from its next token on."""


def raced_chain(toy: Toy, text: Text, times: torch.Tensor) -> DraftTree:
    """Run the target's races over the draft's probabilities."""
    path: Text = ()
    for depth in range(2):
        path += tuple(choices(toy.draft_logits(text, path), toy.params, [times[depth]]))
    return DraftTree.chain(path)


def raced_tree(toy: Toy, text: Text, times: torch.Tensor) -> DraftTree:
    """Grow the five best nodes of two levels by the races."""

    def log_probs(paths: list[Text], depth: int) -> torch.Tensor:
        logits = torch.cat([toy.draft_logits(text, path) for path in paths])
        return raced(logits, toy.params, [times[depth]] * len(paths))

    return _grown(log_probs)


def chosen_chain(toy: Toy, text: Text, times: torch.Tensor) -> DraftTree:
    """Choose the draft's likeliest token twice."""
    path: Text = ()
    for _ in range(2):
        path += (int(toy.draft_logits(text, path).argmax()),)
    return DraftTree.chain(path)


def chosen_tree(toy: Toy, text: Text, times: torch.Tensor) -> DraftTree:
    """Grow the five best nodes of two levels, blind to every processor, grammar and race."""

    def log_probs(paths: list[Text], depth: int) -> torch.Tensor:
        last = [(*toy.prompt, *text, *path)[-1] for path in paths]
        return toy.draft[last].log_softmax(-1)

    if text not in toy.blind_trees:
        toy.blind_trees[text] = _grown(log_probs)
    return toy.blind_trees[text]


def _grown(log_probs: Callable[[list[Text], int], torch.Tensor]) -> DraftTree:
    builder, paths = TreeBuilder(beam_width=3), [()]
    for depth in range(2):
        beam = builder.grow(log_probs(paths, depth)[None])
        pairs = zip(beam.parent_rows[0].tolist(), beam.tokens[0].tolist(), strict=True)
        paths = [(*paths[row], token) for row, token in pairs]
    return builder.trees([5])[0]


TREE_MAKERS: dict[str, TreeMaker] = {
    "raced chain": raced_chain,
    "chosen chain": chosen_chain,
    "chosen tree": chosen_tree,
    "raced tree": raced_tree,
}
