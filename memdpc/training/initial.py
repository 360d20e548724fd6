"""The weights that a pretraining begins with, where they are given."""

from pathlib import Path

from memdpc.base.errors import CheckpointError
from memdpc.method.kinds import need_predictor
from memdpc.method.model import MemDPC
from memdpc.method.released import is_released, load_released
from memdpc.method.saving import load_strictly


def load_initial(model: MemDPC, checkpoint: str) -> None:
    """Copy the weights of `checkpoint` into `model`, all of them.

    It is a run, a checkpoint in it, a folder that `save_pretrained` wrote, or a released
    `.pth.tar`. `CheckpointError` names the entry that does not fit.
    """
    path = Path(checkpoint)
    if is_released(path):
        source = load_released(path, **model.sizes | {"loss": model.loss})
    else:
        source = MemDPC.from_pretrained(path, loss=model.loss)
    need_predictor(source, checkpoint)
    try:
        load_strictly(model, source.state_dict())
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


__all__ = []
