"""The section of trained weights with other G1 and G2."""

from collections.abc import Iterator
from pathlib import Path
from statistics import mean

from common import make_figure, save_figure, span

from mmhatnet.analysis.report import markdown_table, read_csv
from mmhatnet.analysis.sweep import name_of, pareto_front

COSTS = (
    ('operations', 1e6, 'multiply-accumulates (M)'),
    ('latency_ratio', 1, 'time of the backbone, configured = 1'),
)


def compare_sweeps(sweeps: dict[str, list[dict]], metric: str) -> list[dict]:
    """Make a row for each setting, with a column for each training."""
    table: dict[str, dict[str, str]] = {}
    for row in (row for rows in sweeps.values() for row in rows):
        setting = name_of(row)
        here = {
            name: found
            for name, rows in sweeps.items()
            for found in rows
            if name_of(found) == setting
        }
        times = [found['latency_ratio'] for found in here.values()]
        several = f' ({span(times, ".2f")})' if len(times) > 1 else ''
        table[setting] = {
            'G1; G2': setting,
            'operations (M)': f'{row["operations"] / 1e6:.1f}',
            'time': f'{mean(times):.2f}{several}',
            **{name: f'{found[metric]:.4g}' for name, found in here.items()},
        }
    return list(table.values())


def plot_sweeps(
    sweeps: dict[str, list[dict]], metric: str, path: Path
) -> None:
    figure, panels = make_figure(1, 2, size=(10, 4), sharey=True)
    for panel, (cost, unit, label) in zip(panels, COSTS, strict=True):
        for colour, (name, rows) in enumerate(sweeps.items()):
            points = [(row[cost] / unit, row[metric]) for row in rows]
            panel.plot(*zip(*points, strict=True), f'C{colour}o', alpha=0.4)
            front = [points[i] for i in pareto_front(points)]
            panel.plot(*zip(*front, strict=True), f'C{colour}.-', label=name)
        panel.set(xlabel=label)
    panels[0].set(ylabel=metric)
    panels[0].legend()
    save_figure(figure, path)


def dial(folder: Path, group: str, metric: str, title: str) -> Iterator[str]:
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
    plot_sweeps(sweeps, metric, folder / f'sweep_{group}.png')
    rows = next(iter(sweeps.values()))
    configured = next(row for row in rows if row['configured'])
    options = [f'--shape {configured["height"]} {configured["width"]}']
    for key in ('G1', 'G2'):
        values = dict.fromkeys(','.join(map(str, row[key])) for row in rows)
        options.append(' '.join([f'--{key.lower()}', *values]))
    yield (
        f'## The dial, trained: {title}\n\n'
        f'{metric} of trained weights with other G1 and G2, without further '
        f'training; the configured ones are {name_of(configured)}. *elastic* '
        'weights saw several G1, G2 and sizes of images in training, with the '
        'same number of images. *time* is that of the backbone relative to '
        'the configured setting, the mean (and the least to the most) of the '
        'sweeps. Lines are Pareto fronts, a point where one setting is the '
        'best and the cheapest. The command, with the config of a training '
        'and its last checkpoint or, of the same training, the float16 '
        'weights of the package:\n\n'
        '```bash\npython tools/analysis_tools/sweep_grids.py '
        f'CONFIG CHECKPOINT {" ".join(options)}\n```\n\n'
        f'{markdown_table(compare_sweeps(sweeps, metric))}\n\n'
        f'![{metric} over the cost of settings of G1 and G2]'
        f'({folder.name}/sweep_{group}.png)\n'
    )
