"""Finetuning for unintentional action: the network is trained together with its linear head."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn

from memdpc.base.config import OopsConfig
from memdpc.data.augment import normalize_clips
from memdpc.evaluation.oops_labels import LabelledVideos
from memdpc.evaluation.oops_windows import OversampledBatches, WindowTargets
from memdpc.training.loop import Schedule, train
from memdpc.training.processes import make_loader
from memdpc.training.run import Run, finish, restore

__all__ = []

# The rate drops, and later training ends, once the held-out loss has not fallen for so many epochs.
_PATIENCE = 3


def classification_step(model: Any, batch: dict) -> dict[str, torch.Tensor]:
    """Cross-entropy of the drawn step of each window of a batch."""
    device = next(model.parameters()).device
    logits = model(normalize_clips(batch["clip"].to(device)))  # [B, N, 3]
    step = batch["step"].to(device)
    drawn = logits[torch.arange(len(step)), step]  # [B, 3]
    target = batch["target"].to(device)
    right = drawn.argmax(1) == target
    return {"loss": F.cross_entropy(drawn, target), "accuracy": right.float().mean()}


def learning_rate_with_one_drop(
    run: Run,
    lr: float,
    patience: int,
) -> Callable[[int], float]:
    """The learning rate as a function of the step: `lr`, later a tenth of it.

    It drops once the held-out loss has not fallen for `patience` steps, and stays down. When it
    did is part of the run's state, so a resumed run goes on alike.
    """

    def rate(step):
        best = run.state["best"]
        dropped = "dropped" in run.state
        if best and not dropped and step - best[0] >= patience:
            run.state["dropped"] = step
            dropped = True
        return lr / 10 if dropped else lr

    return rate


def finetuning_run(
    config: OopsConfig,
    accelerator: Accelerator,
    parts: Mapping[str, LabelledVideos] | None,  # None: not known yet
    main: bool,
) -> Run:
    """The run in `out/finetuned`; one that is not `main` only looks."""
    videos = None
    if parts is not None:
        videos = {"training": parts["train"].videos, "held-out": parts["held out"].videos}
    folder = Path(config.out, "finetuned")
    return Run(folder, config, main, accelerator.num_processes, videos)


def finetune(
    config: OopsConfig,
    accelerator: Accelerator,
    classifier: Any,
    parts: Mapping[str, LabelledVideos],
    evaluate: Callable[[nn.Module], dict[str, float]],
    num_blocks: int,
    img_size: int,
) -> Run:
    """Train a whole `OopsClassifier` from the run in `out/finetuned`, or go on with it.

    `evaluate(classifier)` gives the held-out loss. A finished run is left as it is.
    """
    processes = accelerator.num_processes
    run = finetuning_run(config, accelerator, parts, accelerator.is_main_process)
    optimizer = torch.optim.Adam(
        classifier.parameters(), lr=config.lr, weight_decay=config.weight_decay
    )
    start = restore(run, classifier, optimizer)
    if run.finished:
        return run
    videos, failures = parts["train"]
    block_len = classifier.memdpc.block_len
    targets = WindowTargets(videos, failures, num_blocks, block_len, img_size)
    per_epoch = max(1, len(videos) // (config.batch_size * processes))
    total = config.epochs * per_epoch
    if config.max_steps:
        total = min(total, config.max_steps)
    batches = OversampledBatches(
        targets.labels,
        config.transition_share,
        config.batch_size,
        stop=total,
        start=start,
        seed=config.seed,
        rank=accelerator.process_index,
        world_size=processes,
    )
    values = train(
        run,
        accelerator,
        classifier,
        optimizer,
        make_loader(targets, batches, config.num_workers),
        classification_step,
        learning_rate_with_one_drop(run, config.lr, _PATIENCE * per_epoch),
        Schedule(per_epoch, total, start),
        evaluate=evaluate,
        seed=config.seed,
    )
    finish(
        run,
        values,
        steps=total,
        seed=config.seed,
        seconds=run.seconds,
    )
    return run
