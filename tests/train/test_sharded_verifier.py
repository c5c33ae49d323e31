"""FSDP2 through transformers' trainer, in two processes on CPUs.

accelerate does not shard on CPUs: it leaves the plugin out for that kind of device. One patch makes it take the CPU for
a device like others; all else, sharding by `fully_shard` over gloo included, is its own code and ours.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from edit_r1.records import Preference, Quadruple
from edit_r1.train.gcpo import train_gcpo
from edit_r1.train.gcpo_stage import GCPOStage, GCPOUpdates, SamplingSettings
from edit_r1.train.machine import MachineSettings
from edit_r1.train.processes import in_processes
from edit_r1.train.settings import changed
from edit_r1.train.sft import SFTStage, train_sft
from edit_r1.train.verifier_run import Progress, RunFolder, read_curves

SHARDED = MachineSettings(shard="fsdp2")


def _take_cpus_for_devices(record: Path) -> None:
    """Patches accelerate in this process; `record` gets the kind of every trained tensor."""
    from accelerate import state
    from accelerate.utils import DistributedType
    from torch.distributed.tensor import DTensor

    import edit_r1.train.gcpo as gcpo
    import edit_r1.train.sft as sft

    begin = state.AcceleratorState.__init__

    def with_plugin(self: Any, *args: Any, **options: Any) -> None:
        begin(self, *args, **options)
        if options.get("fsdp_plugin") is not None:
            self.distributed_type = DistributedType.FSDP
            self.fsdp_plugin = options["fsdp_plugin"]
            if self._mixed_precision != "no":
                self.fsdp_plugin.set_mixed_precision(self._mixed_precision)
            state.PartialState._shared_state["distributed_type"] = self.distributed_type

    state.AcceleratorState.__init__ = with_plugin
    for module in (gcpo, sft):
        gather = module.whole_weights

        def noted(trainer: Any, gather: Any = gather) -> Any:
            kinds = {isinstance(weight, DTensor) for weight in trainer.model.parameters()}
            record.mkdir(exist_ok=True)
            policy = trainer.accelerator.state.fsdp_plugin.mixed_precision_policy
            sums = policy.reduce_dtype if trainer.args.bf16 else torch.float32
            (record / f"{trainer.accelerator.process_index}-{kinds}-{sums}").touch()
            return gather(trainer)

        module.whole_weights = noted


def _sft(stage: SFTStage, quadruples: list[Quadruple], record: Path, *, progress: Progress | None) -> Path:
    _take_cpus_for_devices(record)
    return train_sft(stage, quadruples, resume=True, progress=progress)


def _gcpo(stage: GCPOStage, preferences: list[Preference], record: Path, *, progress: Progress | None) -> Path:
    _take_cpus_for_devices(record)
    return train_gcpo(stage, preferences, resume=True, progress=progress)


def _all_sharded(record: Path) -> bool:
    return {path.name for path in record.iterdir()} == {f"{rank}-{{True}}-torch.float32" for rank in (0, 1)}


@pytest.mark.parametrize(
    ("model", "micro_batch", "precision"),
    [("checkpoint", 2, "fp32"), ("untied", 2, "fp32"), ("untied", 1, "fp32"), ("untied", 1, "bf16")],
)
def test_sft_in_parts_is_sft_in_one_process(
    model: str, micro_batch: int, precision: Any, request: pytest.FixtureRequest, quadruples: list[Quadruple],
    tmp_path: Path,
) -> None:  # fmt: skip
    checkpoint = request.getfixturevalue(model)
    stage = SFTStage(
        str(checkpoint), str(tmp_path / "one"), variant="compact", steps=2, batch_size=4, warmup_steps=0,
        learning_rate=1e-3, log_every=1, stored="fp32", cpu=True, precision=precision,
    )  # fmt: skip
    one = load_file(train_sft(stage, quadruples) / "model.safetensors")
    parts = replace(
        stage, out=str(tmp_path / "two"), batch_size=micro_batch, accumulate=2 // micro_batch,
        machine=replace(SHARDED, gradient_checkpointing=True),
    )  # fmt: skip
    trained = in_processes(2, partial(_sft, parts, quadruples, tmp_path / "record"))
    assert _all_sharded(tmp_path / "record")
    two, start = load_file(trained / "model.safetensors"), load_file(checkpoint / "model.safetensors")
    assert set(one) == set(two)
    for name, weight in one.items():
        apart, moved = weight - two[name], weight - start[name].float()
        if precision == "fp32":
            assert apart.abs().max() <= 0.05 * moved.abs().max() + 1e-6, name
        else:  # Adam turns a gradient near zero into a whole step either way
            assert apart.norm() <= 0.3 * moved.norm(), name


@pytest.mark.timeout(900)  # three starts of two processes
def test_gcpo_in_parts_is_gcpo_with_copies_and_resumes(
    wavering: Path, preferences: list[Preference], tmp_path: Path
) -> None:
    copies = GCPOStage(
        str(wavering), str(tmp_path / "copies"), mode="verify", variant="compact", steps=2, pairs_per_step=2, traces=4,
        sampling=SamplingSettings(max_new_tokens=8), updates=GCPOUpdates(learning_rate=1e-3, micro_batch=4),
        stored="fp32", save_every=1, cpu=True,
    )  # fmt: skip
    parts = replace(copies, out=str(tmp_path / "parts"), machine=SHARDED)
    first = load_file(in_processes(2, partial(train_gcpo, copies, preferences)) / "model.safetensors")

    class Stopped(Exception):
        pass

    def stop(done: int, *_: object) -> None:
        if done == 2:
            raise Stopped

    # The first process reports step 2 before it is saved: what is left is the checkpoint of step 1.
    with pytest.raises(Stopped):
        in_processes(2, partial(_gcpo, parts, preferences, tmp_path / "record"), stop)
    assert not RunFolder(tmp_path / "parts").model.exists()
    model = in_processes(2, partial(_gcpo, parts, preferences, tmp_path / "record"))
    assert _all_sharded(tmp_path / "record")
    second = load_file(model / "model.safetensors")
    assert set(first) == set(second)
    curves = [read_curves(tmp_path / name / "curves.jsonl") for name in ("copies", "parts")]
    assert [line["trace_tokens"] for line in curves[0]] == [line["trace_tokens"] for line in curves[1]]
    start = load_file(wavering / "model.safetensors")
    apart = sum(float((second[name] - weight).square().sum()) for name, weight in first.items())
    moved = sum(float((start[name].float() - weight).square().sum()) for name, weight in first.items())
    assert apart <= 0.05**2 * moved


def test_what_cannot_be_sharded_is_refused(tmp_path: Path, checkpoint: Path, quadruples: list[Quadruple]) -> None:
    with pytest.raises(ValueError, match="in one process"):
        train_sft(SFTStage(str(checkpoint), str(tmp_path / "run"), variant="compact", machine=SHARDED), quadruples)
    with pytest.raises(ValueError, match="LoRA is trained with a copy"):
        SFTStage("m", "o", lora_rank=4, machine=SHARDED)
    with pytest.raises(ValueError, match="Muon needs whole matrices"):
        SFTStage("m", "o", optimizer="muon", machine=SHARDED)
    with pytest.raises(ValueError, match="frozen='bf16' with lora_rank=0"):
        changed(GCPOStage("m", "o"), frozen="bf16")
