"""Tables and plots of trained weights with other G1 and G2."""

from collections.abc import Iterator
from pathlib import Path
from statistics import mean

from matplotlib.figure import Figure

from ..utils.atomic import replacing
from .report import markdown_table, read_csv
from .sweep import name_of, pareto_front

CLEAN = 'none'  # no corruption


def save_figure(figure: Figure, path: Path) -> str:
    """Save a figure beside its page.

    Args:
        figure (Figure): The figure.
        path (Path): The PNG file.

    Returns:
        str: The file as a link of Markdown, from the parent of its folder.
    """
    with replacing(path) as part:
        figure.savefig(part, format='png', dpi=100)
    return f'({path.parent.name}/{path.name})'


def _grids_options(rows: list[dict]) -> str:
    """Write the options with which a tool measured all these settings."""
    options = []
    for option, key in ('--g1', 'G1'), ('--g2', 'G2'):
        values = dict.fromkeys(','.join(map(str, row[key])) for row in rows)
        options.append(' '.join([option, *values]))
    return ' '.join(options)


def dials(folder: Path, group: str, metric: str, title: str) -> Iterator[str]:
    """Show sweeps over G1 and G2 of one model with several trainings.

    Args:
        folder (Path): The folder with ``sweep_<group>_<training>.csv``, and
            for the figure.
        group (str): The model.
        metric (str): mm's name.
        title (str): What the model is for.

    Yields:
        str: A section in Markdown, if there are sweeps.
    """
    sweeps = {
        path.stem.removeprefix(f'sweep_{group}_'): read_csv(path)
        for path in sorted(folder.glob(f'sweep_{group}_*.csv'))
    }
    if not sweeps:
        return
    figure = Figure(figsize=(10, 4), layout='constrained')
    panels = figure.subplots(1, 2, sharey=True)
    table: dict[str, dict[str, str]] = {}
    ratios: dict[str, list[float]] = {}
    for colour, (name, rows) in enumerate(sweeps.items()):
        for panel, cost, unit in zip(
            panels, ('operations', 'latency_ratio'), (1e6, 1), strict=True
        ):
            points = [(row[cost] / unit, row[metric]) for row in rows]
            panel.plot(*zip(*points, strict=True), f'C{colour}o', alpha=0.4)
            front = [points[i] for i in pareto_front(points)]
            panel.plot(*zip(*front, strict=True), f'C{colour}.-', label=name)
        for row in rows:
            setting = name_of(row)
            ratios.setdefault(setting, []).append(row['latency_ratio'])
            cells = table.setdefault(setting, {'G1; G2': setting})
            cells['operations (M)'] = f'{row["operations"] / 1e6:.1f}'
            here = ratios[setting]
            cells['time'] = f'{mean(here):.2f}'
            if len(here) > 1:
                cells['time'] += f' ({min(here):.2f} to {max(here):.2f})'
            cells[name] = f'{row[metric]:.4g}'
    panels[0].set(ylabel=metric, xlabel='multiply-accumulates (M)')
    panels[1].set(xlabel='time of the backbone, configured = 1')
    panels[0].legend()
    for panel in panels:
        panel.grid(alpha=0.3)
    image = save_figure(figure, folder / f'sweep_{group}.png')
    configured = next(row for row in rows if row['configured'])
    shape = f'{configured["height"]} {configured["width"]}'
    yield (
        f'## The dial, trained: {title}\n\n'
        f'{metric} of trained weights with other G1 and G2, without further '
        f'training; the configured ones are {name_of(configured)}. *elastic* '
        'weights saw several G1, G2 and sizes of images in training, with the '
        'same number of images. *time* is that of the backbone relative to '
        'the configured setting, the mean (and the least to the most) of the '
        'sweeps. Lines are Pareto fronts, a point where one setting is the '
        'best and the cheapest. The command, with the config of a training '
        'and its last '
        'checkpoint or, of the same training, the float16 weights of the '
        'package:\n\n'
        '```bash\npython tools/analysis_tools/sweep_grids.py '
        f'CONFIG CHECKPOINT --shape {shape} '
        f'{_grids_options(rows)}\n```\n\n'
        f'{markdown_table(list(table.values()))}\n\n'
        f'![{metric} over the cost of settings of G1 and G2]{image}\n'
    )


def robustness(folder: Path, metric: str, side: int) -> Iterator[str]:
    """Show corruptions and sizes, as functions of G1 and G2.

    Args:
        folder (Path): The folder with ``robustness_<training>.csv``, and for
            the figure.
        metric (str): mm's name.
        side (int): Of the usual images, in pixels.

    Yields:
        str: A section in Markdown, if there are tests.
    """
    tests = {
        path.stem.removeprefix('robustness_'): read_csv(path)
        for path in sorted(folder.glob('robustness_*.csv'))
    }
    if not tests:
        return
    figure = Figure(figsize=(13, 4.5), layout='constrained')
    sizes, kinds = figure.subplots(1, 2, width_ratios=(1, 2), sharey=True)
    table = {}
    for name, rows in tests.items():
        for setting in dict.fromkeys(map(name_of, rows)):
            here = [row for row in rows if name_of(row) == setting]
            by_size = [
                (row['scale'] or side, row[metric])
                for row in here
                if row['corruption'] == CLEAN
            ]
            sizes.plot(*zip(*sorted(by_size), strict=True), marker='.')
            by_kind = {
                row['corruption']: row[metric]
                for row in here
                if not row['scale']
            }
            kinds.plot(
                list(by_kind),
                list(by_kind.values()),
                'o',
                label=f'{name}: {setting}',
            )
            cells = {'weights': name, 'G1; G2': setting}
            cells |= {kind: f'{v:.4g}' for kind, v in by_kind.items()}
            cells |= {
                f'{size} pixels': f'{value:.4g}'
                for size, value in sorted(by_size)
            }
            table[name, setting] = cells
    sizes.set(xlabel='side of the test images in pixels', ylabel=metric)
    kinds.tick_params('x', rotation=30)
    for panel in (sizes, kinds):
        panel.grid(alpha=0.3)
    figure.legend(loc='outside right upper', fontsize='small')
    image = save_figure(figure, folder / 'robustness.png')
    scales = ' '.join(
        dict.fromkeys(str(row['scale']) for row in rows if row['scale'])
    )
    yield (
        '## Robustness: corruptions, sizes and the dial\n\n'
        f'{metric} on CIFAR-10 with corrupted test images and with test '
        'images of other sizes, without further training. *fixed* are the '
        'weights of the package, in float16. The command, with the default '
        'corruptions:\n\n'
        '```bash\npython tools/analysis_tools/robustness.py '
        f'CONFIG CHECKPOINT {_grids_options(rows)} '
        f'--scales {scales}\n```\n\n'
        f'{markdown_table(list(table.values()))}\n\n'
        f'![{metric} over sizes and corruptions]{image}\n'
    )


def check_test(name: str, path: str, metrics: dict[str, str]) -> None:
    """Refuse what the sections could not show.

    Args:
        name (str): The name to store the test by.
        path (str): The CSV file.
        metrics (dict[str, str]): The metric of each group.

    Raises:
        ValueError: If the name is of neither kind, or columns are missing.
    """
    kind, _, rest = name.partition('_')
    columns = {'robustness': ['corruption', metrics['cifar10']]}
    for group, metric in metrics.items():
        prefix = f'sweep_{group}_'
        if name.startswith(prefix) and name != prefix:
            columns['sweep'] = ['latency_ratio', metric]
    if kind not in columns or not rest:
        raise ValueError(
            f"'{name}' is neither sweep_GROUP_NAME nor robustness_NAME"
        )
    rows = read_csv(path)
    if not rows or not rows[0].keys() >= set(columns[kind]):
        raise ValueError(f'{path} lacks {" or ".join(columns[kind])}')
