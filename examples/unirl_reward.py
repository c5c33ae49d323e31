"""UniRL, over HTTP: its own remote reward, with settings that suit a judge of edits.

Start `edit-r1 serve --model path/to/verifier`, then use `edit_rrm()` as the reward component of a recipe (or write the
same fields into its YAML). `python unirl_reward.py http://127.0.0.1:8500` only asks whether a server is there.

UniRL sends the first source image of each sample as the first turn of the history. Rewards are 0 to 1. An item without
a score (judged again by the server) comes back in `errors`; UniRL then marks it as failed, and its reward service
stops the step rather than train on the 0.0 that its client puts in that place.
"""

from __future__ import annotations

import sys

import httpx
from unirl.reward.remote import RemoteRewardSpec

REWARD = "edit_rrm"


def edit_rrm(base_url: str = "http://127.0.0.1:8500", timeout: float = 300.0) -> RemoteRewardSpec:
    """base_url: with a token, http://any:TOKEN@host:port."""
    return RemoteRewardSpec(
        base_url=base_url,
        required_rewards=(REWARD,),
        timeout=timeout,
        max_retries=5,
        retry_delay=2.0,  # a full queue answers 503
        image_format="PNG",  # JPEG adds artefacts that the verifier would blame on the editor
        require_identity_echo=True,
        raise_on_failure=True,
    )


if __name__ == "__main__":
    health = httpx.get(f"{sys.argv[1]}/health").raise_for_status().json()
    print(f"{sys.argv[1]}: {health['status']}, rewards {health['rewards']}")
