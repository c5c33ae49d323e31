"""The judgments of one iteration's edits: asked for while others are still sampled, or all at once.

A micro-batch goes to the judge as soon as it is decoded, on a thread of its own and through a bounded queue; sampling
waits when the queue is full. The results do not depend on which batch was answered first: batches are what the sampler
made them, each is judged by itself, and what the reward's cache learns is found only after the iteration.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from math import isnan

from edit_r1.records import Context
from edit_r1.train.data_parallel import ALONE, Team
from edit_r1.train.editor_stage import Reward
from edit_r1.train.rewards import CombinedReward, EditReward

Values = dict[int, float | None]


class Judging:
    """One iteration's judgments in this process. A plain function as reward is called once, with all its edits."""

    def __init__(self, reward: Reward, contexts_B: Sequence[Context], group_size: int, team: Team = ALONE) -> None:
        self.reward, self.contexts_B, self.group_size, self.team = reward, contexts_B, group_size, team
        self.edits: list[int] = []
        self.images: list[bytes] = []
        """Of `edits`: this process's, in the order in which they were sampled."""
        self.waited = 0.0
        """Seconds that the training waited for the judge."""
        self.worked = 0.0
        """Seconds that the judge worked, over all its threads."""
        self._lock = threading.Lock()
        self._futures: list[Future[Values]] = []
        self._pool: ThreadPoolExecutor | None = None
        if isinstance(reward, CombinedReward) and reward.overlaps:
            workers, pending = reward.settings.workers, reward.settings.pending
            self._pool = ThreadPoolExecutor(workers, thread_name_prefix="judge")
            self._room = threading.BoundedSemaphore(workers + pending)

    @property
    def overlaps(self) -> bool:
        return self._pool is not None

    def put(self, edits: Sequence[int], images: Sequence[bytes]) -> None:
        """A finished micro-batch of the sampler; waits while the queue is full."""
        self.edits += edits
        self.images += images
        if self._pool is None:
            return
        start = time.perf_counter()
        self._room.acquire()
        self.waited += time.perf_counter() - start
        future = self._pool.submit(self._judge, tuple(edits), tuple(images))
        future.add_done_callback(lambda _: self._room.release())
        self._futures.append(future)

    def rewards(self, publish: bool = True) -> list[float | None]:
        """The reward of every edit of the iteration, of all processes; None for a failed judgment.

        publish: what was learned may be found from now on; False while another iteration is being judged, whose answers
        must not depend on this moment.
        Raises what the reward raises, and ValueError when it does not give one value per image.
        """
        start = time.perf_counter()
        own: Values = {}
        if self._pool is None:
            order = sorted(range(len(self.edits)), key=self.edits.__getitem__)
            own = self._judge([self.edits[place] for place in order], [self.images[place] for place in order])
        else:
            try:
                for future in self._futures:
                    own.update(future.result())
            finally:
                self._pool.shutdown(wait=False, cancel_futures=True)
        self.waited += time.perf_counter() - start
        if publish and isinstance(self.reward, CombinedReward):
            self.reward.publish()
        everyones = self.team.gathered(own)
        return [everyones[edit] for edit in range(len(self.contexts_B) * self.group_size)]

    def cancel(self) -> None:
        """Nobody will ask for the rewards: what has not begun is not judged, and what has is not waited for."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def seconds(self) -> dict[str, float]:
        """For the metrics: nothing more where judging did not overlap, as its phase says it all."""
        return {"judging": self.worked, "waiting": self.waited} if self.overlaps else {}

    def _judge(self, edits: Sequence[int], images: Sequence[bytes]) -> Values:
        start = time.perf_counter()
        values = self.reward([self.contexts_B[edit // self.group_size] for edit in edits], images)
        with self._lock:
            self.worked += time.perf_counter() - start
        if len(values) != len(edits):
            raise ValueError(
                f"the reward returned {len(values)} values for {len(edits)} images: return one per image, None "
                "for a failed judgment"
            )
        return {edit: _clean(value) for edit, value in zip(edits, values, strict=True)}


def _clean(value: float | None) -> float | None:
    """NaN as None; an `EditReward` keeps its parts."""
    if value is None or isnan(value):
        return None
    return value if isinstance(value, EditReward) else float(value)
