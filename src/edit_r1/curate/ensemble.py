"""Step 4a by several verifiers: each votes on every principle, and the votes make gold.

In the paper one model's word is gold, and it is the model that also decomposes and judges: they share blind spots. An
ensemble takes further verifiers, and the judges of the pool by their traces; each principle is decided by majority or
by weighted votes. Uncertain means 0, so a tie is 0. A member that gave no usable answer does not vote.

Every member's votes stay on the disk (the data set `votes`), by the same keys as those of a single verifier: a member
that is added is asked, the others are found again, and another rule or other weights cost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edit_r1.records import GoldVerdicts, PoolTrace, Trace, Verdict
from edit_r1.vlm.protocol import VLM

TOLD_MEMBERS = 6
"""Members that a reason names; of more it tells how many there are."""
_NOBODY = "all weights are 0: nobody would decide"


@dataclass(frozen=True)
class Ensemble:
    """Who votes beside the stage's verifier, and how votes count."""

    others: tuple[VLM, ...] = ()
    """Further verifiers, asked as the stage's is."""
    pool: bool = False
    """Each judge of the pool votes too, by the majority of its own traces; a tie of these is 0."""
    weights: tuple[tuple[str, float, float], ...] = ()
    """(name, weight of its yes, weight of its no) of every member, 0 or more: `curate.weigh` makes them of a small gold
    set. Empty: a member, a vote. Judges that do not vote may stand there too, since that file holds them."""

    def __post_init__(self) -> None:
        names = [name for name, _, _ in self.weights]
        if len(set(names)) < len(names):
            raise ValueError(f"weights of {names}: give each member one weight")
        for name, yes, no in self.weights:
            if not all(math.isfinite(weight) and weight >= 0 for weight in (yes, no)):
                raise ValueError(f"weights {yes} and {no} of {name}: a weight is a number of 0 or more")
        if self.weights and not any(yes > 0 or no > 0 for _, yes, no in self.weights):
            raise ValueError(f"{_NOBODY}; give one member at least a weight above 0")

    def check(self, verifier: str, judges: Sequence[str]) -> None:
        """Raises ValueError for members of one name, fewer than two of them, one without a weight where others have
        one, a weight of nobody, or members whose weights are all 0.

        Args:
            judges: names of the pool's judges, of which one may stand several times.
        """
        members = [verifier, *(vlm.name for vlm in self.others), *(dict.fromkeys(judges) if self.pool else ())]
        if len(set(members)) < len(members):
            raise ValueError(f"members {members}: each needs a name of its own, or their votes cannot be told apart")
        if len(members) < 2:
            raise ValueError(f"an ensemble of {members}: add verifiers (`others`), or let the pool vote (`pool=True`)")
        weights = {name: max(yes, no) for name, yes, no in self.weights}
        if weights and (missing := sorted(set(members) - weights.keys())):
            raise ValueError(
                f"no weights of {', '.join(missing)}: give every member its two; those of 0 and 0 count for nothing"
            )
        if weights and not any(weights[name] > 0 for name in members):
            raise ValueError(f"{_NOBODY}; give one of {', '.join(members)} a weight above 0")
        if foreign := sorted(weights.keys() - {*members, *judges}):
            known = ", ".join(dict.fromkeys([*members, *judges]))
            raise ValueError(f"weights of {', '.join(foreign)}, who is no member: verifiers and judges are {known}")

    def decide(self, votes: Sequence[GoldVerdicts]) -> GoldVerdicts | None:
        """`combine` of the members that count for anything; None when none of these voted."""
        weights = {name: (yes, no) for name, yes, no in self.weights}
        heard = [vote for vote in votes if not weights or max(weights[vote.verifier]) > 0]
        return combine(heard, weights or None) if heard else None

    def rule(self) -> list[object]:
        """What shapes gold apart from the votes, for keys."""
        return ["ensemble", self.pool, sorted(self.weights)]


def pool_votes(traces: Sequence[PoolTrace]) -> list[GoldVerdicts]:
    """One vote of each judge that has a parsed trace of the candidate, in the order of their first traces."""
    by_judge: dict[str, list[PoolTrace]] = {}
    for trace in sorted(traces, key=lambda one: one.index):
        if isinstance(trace.outcome, Trace) and trace.outcome.verdicts is not None:
            by_judge.setdefault(trace.judge, []).append(trace)
    votes = []
    for judge, own in by_judge.items():
        given = [one.outcome.verdicts for one in own if isinstance(one.outcome, Trace) and one.outcome.verdicts]
        counts = [sum(verdicts[place].value for verdicts in given) for place in range(len(given[0]))]
        verdicts = tuple(
            Verdict(1 if 2 * yes > len(given) else 0, f"{yes} of {len(given)} traces say yes") for yes in counts
        )
        votes.append(GoldVerdicts(own[0].candidate_id, verdicts, judge, any(one.simulated for one in own)))
    return votes


def combine(votes: Sequence[GoldVerdicts], weights: Mapping[str, tuple[float, float]] | None = None) -> GoldVerdicts:
    """Gold of one candidate: 1 where the weight of yes is above that of no, otherwise, at a tie too, 0.

    Weighted majority voting. Of independent members and equally frequent truths it errs least when a yes weighs
    log(p(yes | 1) / p(yes | 0)) and a no log(p(no | 0) / p(no | 1)), which are both log(p / (1 - p)) for a member
    that is right with probability p about either (Nitzan and Paroush, International Economic Review 23, 1982).

    Args:
        votes: of one candidate, of members of different names.
        weights: by name, of its yes and its no; None counts every member once.

    Raises:
        ValueError: without votes, for votes of several candidates, of different lengths or twice by one member.
    """
    names = [vote.verifier for vote in votes]
    if not votes or len(set(names)) < len(names):
        raise ValueError(f"votes of {names}: give one of each member, and at least one")
    if len({vote.candidate_id for vote in votes}) > 1 or len({len(vote.gold) for vote in votes}) > 1:
        raise ValueError("votes of several candidates, or of different lengths: give those of one candidate")
    verdicts = []
    for place in range(len(votes[0].gold)):
        says: dict[int, list[GoldVerdicts]] = {0: [], 1: []}
        for vote in votes:
            says[vote.gold[place].value].append(vote)
        for_yes, for_no = (math.fsum(_weight(vote, value, weights) for vote in says[value]) for value in (1, 0))
        value: int = 1 if for_yes > for_no and not math.isclose(for_yes, for_no) else 0
        verdicts.append(Verdict(1 if value else 0, _told(says, value, place, for_yes, for_no, weights is not None)))
    together = f"ensemble of {', '.join(sorted(names))}"
    return GoldVerdicts(votes[0].candidate_id, tuple(verdicts), together, any(vote.simulated for vote in votes))


def _weight(vote: GoldVerdicts, value: int, weights: Mapping[str, tuple[float, float]] | None) -> float:
    return 1.0 if weights is None else weights[vote.verifier][1 - value]


def _told(
    says: Mapping[int, Sequence[GoldVerdicts]], value: int, place: int, yes: float, no: float, weighted: bool
) -> str:
    """How the vote went, and the reason of the first member that decided it."""
    voters = len(says[0]) + len(says[1])
    told = f"{len(says[1])} of {voters} say yes"
    if weighted:
        told += f", with {yes:.2f} of {yes + no:.2f} of the weight"
    against = [vote.verifier for vote in says[1 - value]]
    if against and len(against) <= TOLD_MEMBERS:
        told += f", {', '.join(against)} {'says' if len(against) == 1 else 'say'} {'no' if value else 'yes'}"
    reasons = [vote.gold[place].evidence for vote in says[value] if vote.gold[place].evidence]
    return f"{told}: {reasons[0]}" if reasons else told
