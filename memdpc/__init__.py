"""Memory-augmented Dense Predictive Coding: self-supervised learning from video.

`from memdpc import MemDPC` and the other names listed here import their module when they are first
used: `import memdpc` alone, and `memdpc --help`, load neither torch nor PyAV.
"""

__version__ = "0.1.0"

from importlib import import_module
from typing import TYPE_CHECKING, Any

_NAMES = {
    "base.config": [
        "AtlasConfig",
        "BenchmarkConfig",
        "ClassifyConfig",
        "FeaturesConfig",
        "OopsConfig",
        "PrepareConfig",
        "PretrainConfig",
        "RetrieveConfig",
        "ScanConfig",
        "ShapesConfig",
    ],
    "base.errors": [
        "CheckpointError",
        "ConfigError",
        "DatasetError",
        "MachineError",
        "MemdpcError",
        "Stopped",
        "TrainingError",
        "VideoError",
    ],
    "data.augment": ["normalize_clips"],
    "data.clips": ["Clips"],
    "data.layouts": ["DATASETS", "register_dataset"],
    "data.video": ["read_frames"],
    "data.videos": ["load_dataset"],
    "evaluation.atlas": ["atlas"],
    "evaluation.classify": ["classify"],
    "evaluation.features": ["load_model"],
    "evaluation.oops": ["oops"],
    "evaluation.retrieve": ["retrieve"],
    "method.encoder": ["ENCODERS", "Encoder"],
    "method.loss": ["LOSSES", "ContrastiveLoss"],
    "method.memory": ["PREDICTORS", "DirectPredictor", "Memory"],
    "method.model": ["Classifier", "MemDPC", "MemDPCOutput"],
    "method.released": ["load_released", "load_released_classifier"],
    "training.pretrain": ["pretrain"],
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [*_MODULE_OF, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:  # what type checkers and editors read in place of the table
    from memdpc.base.config import AtlasConfig as AtlasConfig
    from memdpc.base.config import BenchmarkConfig as BenchmarkConfig
    from memdpc.base.config import ClassifyConfig as ClassifyConfig
    from memdpc.base.config import FeaturesConfig as FeaturesConfig
    from memdpc.base.config import OopsConfig as OopsConfig
    from memdpc.base.config import PrepareConfig as PrepareConfig
    from memdpc.base.config import PretrainConfig as PretrainConfig
    from memdpc.base.config import RetrieveConfig as RetrieveConfig
    from memdpc.base.config import ScanConfig as ScanConfig
    from memdpc.base.config import ShapesConfig as ShapesConfig
    from memdpc.base.errors import CheckpointError as CheckpointError
    from memdpc.base.errors import ConfigError as ConfigError
    from memdpc.base.errors import DatasetError as DatasetError
    from memdpc.base.errors import MachineError as MachineError
    from memdpc.base.errors import MemdpcError as MemdpcError
    from memdpc.base.errors import Stopped as Stopped
    from memdpc.base.errors import TrainingError as TrainingError
    from memdpc.base.errors import VideoError as VideoError
    from memdpc.data.augment import normalize_clips as normalize_clips
    from memdpc.data.clips import Clips as Clips
    from memdpc.data.layouts import DATASETS as DATASETS
    from memdpc.data.layouts import register_dataset as register_dataset
    from memdpc.data.video import read_frames as read_frames
    from memdpc.data.videos import load_dataset as load_dataset
    from memdpc.evaluation.atlas import atlas as atlas
    from memdpc.evaluation.classify import classify as classify
    from memdpc.evaluation.features import load_model as load_model
    from memdpc.evaluation.oops import oops as oops
    from memdpc.evaluation.retrieve import retrieve as retrieve
    from memdpc.method.encoder import ENCODERS as ENCODERS
    from memdpc.method.encoder import Encoder as Encoder
    from memdpc.method.loss import LOSSES as LOSSES
    from memdpc.method.loss import ContrastiveLoss as ContrastiveLoss
    from memdpc.method.memory import PREDICTORS as PREDICTORS
    from memdpc.method.memory import DirectPredictor as DirectPredictor
    from memdpc.method.memory import Memory as Memory
    from memdpc.method.model import Classifier as Classifier
    from memdpc.method.model import MemDPC as MemDPC
    from memdpc.method.model import MemDPCOutput as MemDPCOutput
    from memdpc.method.released import load_released as load_released
    from memdpc.method.released import load_released_classifier as load_released_classifier
    from memdpc.training.pretrain import pretrain as pretrain


def __getattr__(name: str) -> Any:
    """A public name, imported from its module at its first use (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'memdpc' has no attribute {name!r}")
    value = getattr(import_module(f"memdpc.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
