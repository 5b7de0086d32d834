"""The experiments of the paper: one for each row of its tables."""

from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from mmengine.config import Config

from mmhatnet.apis.zoo import load_model_config, model_entries

from .smoke import shrink

# Name of a metric in the metafiles -> in mm's evaluation, its factor, and the
# difference between two trainings that is to be expected. The last is an
# assumption from what the libraries and papers report for seeds.
METRICS = {
    'Top 1 Accuracy': ('accuracy/top1', 1, 0.2),
    'mIoU': ('mIoU', 1, 0.5),
    'box AP': ('coco/bbox_mAP', 100, 0.3),
    'mask AP': ('coco/segm_mAP', 100, 0.3),
}
TABLES = {
    'hatnet': 'Table 2',
    'sem_fpn': 'Table 3',
    'retinanet': 'Table 4',
    'mask_rcnn': 'Table 4',
    'ablation': 'Sec. 4.4',
}
TABLE_6 = 'mask-rcnn_hatnet-small_fpn_8xb2-1x_coco'
# G1, G2, box AP and mask AP.
SETTINGS = (
    ((8, 8, 8), (12, 4, 2), 45.7, 41.7),
    ((8, 8, 8), (12, 6, 3), 45.3, 41.6),
    ((8, 8, 8), (16, 8, 4), 45.2, 41.6),
    ((8, 8, 8), (32, 16, 8), 44.6, 41.0),
    ((16, 16, 8), (16, 8, 4), 45.1, 41.3),
    ((4, 4, 4), (16, 8, 4), 45.1, 41.3),
)


@dataclass(frozen=True)
class Experiment:
    """A row of a table of the paper."""

    name: str
    table: str  # or section
    model: str  # name in the zoo
    printed: dict[str, float]  # the metrics, by the names of the metafiles
    options: dict = field(default_factory=dict)  # beside the model's config
    trained_as: str = ''  # row whose checkpoint is tested, if not its own

    def config(self, smoke: bool = False) -> Config:
        """Read the config, with the options of the row, or its smoke test."""
        cfg = load_model_config(self.model)
        cfg.merge_from_dict(self.options)
        return shrink(cfg) if smoke else cfg


def list_experiments() -> dict[str, Experiment]:
    """List the experiments of Tables 2 to 6 and Sec. 4.4 by their names.

    The paper does not say whether the rows of Table 6 were trained, or only
    tested, with their G1 and G2. Each is therefore listed twice.
    """
    found = {}
    for name, entry in model_entries().items():
        printed = {
            metric.removesuffix('*'): value
            for result in entry['Results']
            for metric, value in result['Metrics'].items()
            if metric.endswith('*')
        }
        table = TABLES.get(Path(entry['Config']).parent.name)
        if printed and table:
            table = 'Table 5' if 'design' in name else table
            found[name] = Experiment(name, table, name, printed)
    for g1, g2, box, mask in SETTINGS:
        grids = f'g1-{"-".join(map(str, g1))}_g2-{"-".join(map(str, g2))}'
        keys = 'model.backbone.grid_sizes', 'model.backbone.ds_ratios'
        options = dict(zip(keys, (g1, g2), strict=True))
        printed = {'box AP': box, 'mask AP': mask}
        for end, trained_as in ('trained', ''), ('tested', TABLE_6):
            name = f'table6_{grids}_{end}'
            row = name, 'Table 6', TABLE_6, printed, options, trained_as
            found[name] = Experiment(*row)
    return found


def find_experiment(name: str) -> Experiment:
    """Find an experiment; an unknown name raises a ValueError."""
    known = list_experiments()
    if name not in known:
        similar = ', '.join(get_close_matches(name, known, 3, 0.3)) or 'none'
        raise ValueError(f"no row '{name}' (see --list); similar: {similar}")
    return known[name]
