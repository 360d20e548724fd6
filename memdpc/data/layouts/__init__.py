"""Where each dataset keeps its videos, and what its own files say of them.

A training run first asks which videos there are, and what is known of each. The answer must be
complete, since a video that is left out without a word changes the experiment. And it must be the
dataset's own: its makers wrote down which video has which label, which are for testing, and which
share a source. Each wrote it down in another way, so each has a function here:

| name | labels stand in | train or test stands in |
|---|---|---|
| `ucf101` | `classInd.txt` and the folders | `trainlist01.txt`, `testlist01.txt` |
| `hmdb51` | the names of the split files | `wave_test_split1.txt`, behind each name |
| `kinetics400` | a table, else the folders | the names of tables and folders |
| `oops`, `oops-filtered` | nowhere | `train.txt`, `val.txt` |
| `csv` | `train.csv`, `test.csv` | the same |
| `folder` | the folders | the folders `train` and `test` |

A dataset of one's own is one more such function, under a name (`register_dataset`).
"""

from memdpc.data.layouts import csv_lists, folder, hmdb51, kinetics, oops, ucf101
from memdpc.data.layouts.listing import (
    DATASETS,
    Listed,
    Listing,
    list_dataset,
    number_of_splits,
    register_dataset,
)
from memdpc.data.layouts.listing import (
    annotation_files as annotation_files,
)
from memdpc.data.layouts.listing import (
    describe_renamed as describe_renamed,
)
from memdpc.data.layouts.listing import (
    list_parts as list_parts,
)
from memdpc.data.layouts.matching import normalize_name as normalize_name
from memdpc.data.layouts.oops import read_transitions as read_transitions
from memdpc.data.layouts.walk import video_paths as video_paths

register_dataset("ucf101", ucf101.list_ucf101, splits=3, annotations=ucf101.ANNOTATIONS)
register_dataset("hmdb51", hmdb51.list_hmdb51, splits=3, annotations=hmdb51.ANNOTATIONS)
register_dataset("kinetics400", kinetics.list_kinetics400, annotations=kinetics.ANNOTATIONS)
register_dataset("oops", oops.list_oops, annotations=oops.ANNOTATIONS)
register_dataset("oops-filtered", oops.list_oops_filtered, annotations=oops.ANNOTATIONS)
register_dataset("csv", csv_lists.list_csv, annotations=csv_lists.ANNOTATIONS)
register_dataset("folder", folder.list_folder)

__all__ = ["DATASETS", "Listed", "Listing", "list_dataset", "number_of_splits", "register_dataset"]
