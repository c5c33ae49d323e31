"""What tells an unedited copy from an edit when everything goes through an autoencoder: the measures of `edit_change`.

    OMP_NUM_THREADS=1 python bench/copies.py

The tiny editor's autoencoder takes every training source there and back (a copy as the editor would paint it), and the
tiny editor edits each once; edits that the oracle likes (5 or more) must not be taken for copies. Prints a table.
"""

from __future__ import annotations

import time

import numpy as np
import torch
import tyro

from edit_r1.algo.edit_change import UNSEEN_MEAN, UNSEEN_SHARE, UNSEEN_SHIFT, EditChange, measure_change
from edit_r1.images import decode_rgb
from edit_r1.recipes.tiny import role_samples, tiny_editor
from edit_r1.report.terminal import quiet_libraries
from edit_r1.zoo.editworld import oracle_score

LIMITS = {"share": UNSEEN_SHARE, "mean": UNSEEN_MEAN, "shift": UNSEEN_SHIFT}


@torch.no_grad()
def round_trip(vae: torch.nn.Module, pixels_HW3: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] through an autoencoder of diffusers."""
    autoencoder: object = vae
    image = torch.from_numpy(pixels_HW3).permute(2, 0, 1)[None].float() / 127.5 - 1
    latents = autoencoder.encode(image).latent_dist.mode()  # type: ignore[attr-defined]
    back = autoencoder.decode(latents).sample[0].clamp(-1, 1)  # type: ignore[attr-defined]
    made: np.ndarray = ((back.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()
    return made


def main(contexts: int = 120, seed: int = 0) -> None:
    """contexts: of the training split. seed: of the world."""
    quiet_libraries()
    samples = role_samples("rl", contexts, seed)
    editor = tiny_editor()
    sources = [decode_rgb(sample.source) for sample in samples]
    copies = [measure_change(source, round_trip(editor.pipeline.vae, source)) for source in sources]
    liked: list[EditChange] = []
    for sample, source, edit in zip(samples, sources, editor.edit(samples, list(range(contexts))), strict=True):
        if edit.image is not None and oracle_score(sample, edit.image) >= 5:
            liked.append(measure_change(source, decode_rgb(edit.image)))
    print(f"{len(copies)} round trips, {len(liked)} edits that the oracle likes\n")
    print("| | limit | round trips: median, 90 %, most | of these below | edits: least, median | of these below |")
    print("| --- " * 6 + "|")
    for name, limit in LIMITS.items():
        back, made = (np.array([getattr(change, name) for change in changes]) for changes in (copies, liked))
        print(
            f"| {name} | {limit:g} | {', '.join(f'{x:.3g}' for x in np.quantile(back, [0.5, 0.9, 1]))} "
            f"| {(back <= limit).mean():.0%} | {made.min():.3g}, {np.median(made):.3g} | {(made <= limit).mean():.0%} |"
        )
    pair = np.random.default_rng(0).integers(0, 256, (2, 512, 512, 3), dtype=np.uint8)
    measure_change(*pair)
    start = time.process_time()
    for _ in range(20):
        measure_change(*pair)
    print(f"\nmeasuring one edit of 512 x 512: {(time.process_time() - start) / 20 * 1000:.0f} ms of CPU time")


if __name__ == "__main__":
    tyro.cli(main)
