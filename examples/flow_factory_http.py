"""Flow-Factory, over HTTP: its own remote reward, told to send the source images too.

Start `edit-r1 serve --model path/to/verifier`, put this file where the trainer can import it, and name the class:

    rewards:
      - name: edit_rrm
        reward_model: flow_factory_http.EditRRMRemote
        server_url: http://127.0.0.1:8500     # with a token: http://any:TOKEN@127.0.0.1:8500
        batch_size: 16

The trainer waits 60 s for an answer: choose batch_size so that a batch is judged in that time. Rewards are 0 to 1. The
server judges an image without a score again; if that fails too, the client raises with the server's reason.
"""

from __future__ import annotations

from flow_factory.rewards.my_reward_remote import RemotePointwiseRewardModel


class EditRRMRemote(RemotePointwiseRewardModel):
    """Flow-Factory's remote reward sends only what is required, and by itself that leaves out the source."""

    required_fields = ("prompt", "image", "condition_images")
