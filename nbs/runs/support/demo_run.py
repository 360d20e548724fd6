"""Pretrain the demo on the embedded dataset and write its curves to nbs/runs/results/demo_run.csv.

    python nbs/runs/support/demo_run.py

From the repository's top folder; minutes on one core. The columns: step, split, name, value (in
nats, fractions or slots), and where they come from: commit, machine, versions.
"""

import argparse
import logging
import platform
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import av
import pandas as pd
import torch

import memdpc
from memdpc.base.config import PRETRAIN_PRESETS, PretrainConfig
from memdpc.data.shapes import write_shapes
from memdpc.training.pretrain import model_from, pretrain
from memdpc.training.processes import cores
from memdpc.training.run import read_metrics

RESULTS = Path(__file__).parents[1] / "results" / "demo_run.csv"


class SlotCounter:
    """A forward hook: how many slots an address uses in each training step, exp(entropy)."""

    def __init__(self) -> None:
        self.slots: list[float] = []

    def __call__(self, model, inputs, output) -> None:
        if not model.training:
            return
        address = output.past_to_future.address.detach()  # [B, P, K, h, w]
        entropy = torch.special.entr(address.float()).sum(2)
        self.slots.append(entropy.exp().mean().item())


def provenance() -> dict[str, str]:
    """Commit, machine and versions."""
    commit = ["git", "rev-parse", "--short", "HEAD"]
    return {
        "commit": subprocess.run(commit, capture_output=True, text=True).stdout.strip(),
        "machine": f"{platform.machine()}, {cores()} cores, CPU",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "av": av.__version__,
        "memdpc": memdpc.__version__,
    }


def demo_run(config: PretrainConfig) -> pd.DataFrame:
    """Train; the logged rows, and the slots that an address uses at the steps logged."""
    model = model_from(config)
    counter = SlotCounter()
    model.register_forward_hook(counter)
    results = pretrain(config, model=model)
    rows = pd.DataFrame(read_metrics(config.out))[["step", "split", "name", "value"]]
    rows = rows[rows["name"].isin(("loss", "top1", "lr"))]
    steps = rows.loc[rows["split"] == "train", "step"].astype(int).unique()
    slots = [counter.slots[step - 1] for step in steps]
    used = pd.DataFrame({"step": steps, "split": "train", "name": "slots used", "value": slots})
    curves = pd.concat([rows.astype({"step": int, "value": float}), used])
    return curves.sort_values(["step", "split"], kind="stable").assign(seconds=results["seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", help="the embedded dataset, where it has been written already")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--log_every", type=int, default=4)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory() as folder:
        root = options.root or str(write_shapes(Path(folder) / "shapes"))
        config = replace(
            PRETRAIN_PRESETS["demo"],
            root=root,
            out=f"{folder}/run",
            log_every=options.log_every,
        )
        curves = demo_run(config)
    curves["value"] = curves["value"].map(lambda value: f"{value:.5g}")
    curves.assign(**provenance()).to_csv(options.out, index=False)


if __name__ == "__main__":
    main()
