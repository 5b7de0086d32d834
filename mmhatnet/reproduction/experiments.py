"""The experiments of the paper: a row of its tables each."""

from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from mmengine.config import Config

from ..analysis.complexity import measure_complexity
from ..apis.zoo import load_model_config, model_entries

# Name of a metric in the metafiles -> in mm's evaluation, its factor, and the
# difference between two trainings that is to be expected. The last is an
# assumption from what the libraries and papers report for seeds.
METRICS = {
    'Top 1 Accuracy': ('accuracy/top1', 1, 0.2),
    'mIoU': ('mIoU', 1, 0.5),
    'box AP': ('coco/bbox_mAP', 100, 0.3),
    'mask AP': ('coco/segm_mAP', 100, 0.3),
}
# Images of the training sets. COCO has 117,266 images with annotations.
IMAGES = {'ImageNet-1k': 1_281_167, 'ADE20K': 20_210, 'COCO': 117_266}
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
    """A row of a table of the paper.

    Attributes:
        name (str): The name of the row.
        table (str): The table or section.
        model (str): The name of the model in the zoo.
        printed (dict[str, float]): The metrics in print, by the names of the
            metafiles.
        options (dict): Settings that differ from the model's config.
        trained_as (str): The row whose training is tested: this one, or that
            of Table 4 for the rows of Table 6 that are only tested with other
            G1 and G2.
    """

    name: str
    table: str
    model: str
    printed: dict[str, float]
    options: dict = field(default_factory=dict)
    trained_as: str = ''

    def config(self) -> Config:
        """Read the config, with the options of the row."""
        cfg = load_model_config(self.model)
        cfg.merge_from_dict(self.options)
        return cfg

    @property
    def images(self) -> int:
        """Number of images that the training sees."""
        metadata = model_entries()[self.model]['Metadata']
        cfg = load_model_config(self.model)
        if 'Epochs' in metadata:
            return metadata['Epochs'] * IMAGES[metadata['Training Data']]
        return metadata['Iterations'] * cfg.auto_scale_lr.base_batch_size

    @property
    def operations(self) -> int:
        """Multiply-accumulates of the training: 3 times the inference."""
        metadata = model_entries()[self.model]['Metadata']
        flops = metadata['FLOPs']
        if self.options:
            shape = tuple(map(int, metadata['Input Size'].split('x')))
            flops = measure_complexity(self.config(), shape).operations
        return 3 * flops * self.images


def list_experiments() -> dict[str, Experiment]:
    """List the experiments of Tables 2 to 6 and Sec. 4.4.

    Returns:
        dict[str, Experiment]: By their names: those of the models and, for
        Table 6, which does not say whether its rows are trained or tested,
        two rows for each setting.
    """
    found = {}
    for name, entry in model_entries().items():
        printed = {
            metric.removesuffix('*'): value
            for result in entry['Results']
            for metric, value in result['Metrics'].items()
            if metric.endswith('*')
        }
        folder = Path(entry['Config']).parent.name
        table = TABLES.get(folder)
        if printed and table:
            if 'design' in name:
                table = 'Table 5'
            found[name] = Experiment(name, table, name, printed)
    for g1, g2, box, mask in SETTINGS:
        grids = f'g1-{"-".join(map(str, g1))}_g2-{"-".join(map(str, g2))}'
        options = {
            'model.backbone.grid_sizes': g1,
            'model.backbone.ds_ratios': g2,
        }
        printed = {'box AP': box, 'mask AP': mask}
        row = ('Table 6', TABLE_6, printed, options)
        name = f'table6_{grids}'
        found[f'{name}_trained'] = Experiment(f'{name}_trained', *row)
        found[f'{name}_tested'] = Experiment(
            f'{name}_tested', *row, trained_as=TABLE_6
        )
    return found


def find_experiment(name: str) -> Experiment:
    """Find an experiment by its name.

    Args:
        name (str): The name.

    Returns:
        Experiment: The experiment.

    Raises:
        ValueError: If there is none. The message has similar names.
    """
    known = list_experiments()
    if name not in known:
        similar = ', '.join(get_close_matches(name, known, 3, 0.3))
        hint = f'; similar: {similar}' if similar else ''
        raise ValueError(f"no row '{name}' (see --list){hint}")
    return known[name]
