"""Tables and a page of what :mod:`.side_by_side` measured."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median

from .forms import COPIED, COPY, PRODUCT, split_forms
from .report import markdown_table
from .side_by_side import ATTENTION, KEEP_FREED, LAYERS, REST


def short_name(backbone: str) -> str:
    """Shorten the name of a backbone for a table.

    Args:
        backbone (str): A backbone of a case.

    Returns:
        str: Its forms and name without library, folders and suffix.
    """
    forms, name = split_forms(backbone)
    return ':'.join([*forms, Path(name.rpartition('::')[2]).stem])


def gflops(row: Mapping) -> float:
    """Compute the rate of a row.

    Args:
        row (Mapping): A row of a case.

    Returns:
        float: Floating point operations per nanosecond; one
        multiply-accumulate is two.
    """
    return 2e-9 * row['operations'] / median(row['seconds'])


def compare_rows(
    rows: Sequence[Mapping], backbone: str, base: str, column: str
) -> list[float]:
    """Compare two rows of a case.

    Args:
        rows (Sequence[Mapping]): The rows of the case.
        backbone (str): The backbone.
        base (str): The backbone to compare with, or PRODUCT.
        column (str): 'speed', 'memory', or 'share' for the rate.

    Returns:
        list[float]: The ratios of the backbone to the base, one for each
        round; for memory, a single one, NaN if it was not measured.
    """
    row, other = (
        next(row for row in rows if row['backbone'] == name)
        for name in (backbone, base)
    )
    if column == 'memory':
        return [row.get('memory', math.nan) / other.get('memory', math.nan)]
    times = 1.0
    if column == 'share':
        times = row['operations'] / other['operations']
    pairs = zip(other['seconds'], row['seconds'], strict=True)
    return [times * x / y for x, y in pairs]


def format_ratios(ratios: Sequence[float], style: str = '.2f') -> str:
    """Write the ratios of all rounds.

    Args:
        ratios (Sequence[float]): The ratios.
        style (str): How each number is written. Defaults to '.2f'.

    Returns:
        str: Their median, with the smallest and the largest if they differ.
    """
    low, high = min(ratios), max(ratios)
    text = f'{median(ratios):{style}}'
    return text if low == high else f'{text} ({low:{style}} to {high:{style}})'


def comparison_table(rows: Sequence[Mapping]) -> str:
    """Make the table of a case.

    Args:
        rows (Sequence[Mapping]): The rows of the case.

    Returns:
        str: The table in Markdown; see :func:`comparison_page`.
    """
    first, cells = rows[0]['backbone'], []
    compiled = any('start' in row for row in rows)
    for row in rows:
        name, seconds = row['backbone'], median(row['seconds'])
        if name in (PRODUCT, COPY):
            continue
        cell = {
            'backbone': f'`{short_name(name)}`',
            'time (s)': f'{seconds:.3f}',
            'images/s': f'{row["batch"] / seconds:.2f}',
            'speed': format_ratios(compare_rows(rows, name, first, 'speed')),
            'operations (G)': f'{row["operations"] / 1e9:.1f}',
            'GFLOP/s': f'{gflops(row):.0f}',
            'of the peak': format_ratios(
                compare_rows(rows, name, PRODUCT, 'share'), '.0%'
            ),
        }
        if 'memory' in row:
            ratio = compare_rows(rows, name, first, 'memory')
            cell['memory (MiB)'] = f'{row["memory"] / 2**20:.0f}'
            cell['memory'] = format_ratios(ratio)
        if compiled:
            cell['start (s)'] = f'{row["start"]:.0f}' if 'start' in row else ''
        cells.append(cell)
    return markdown_table(cells)


def _profile_table(rows: Sequence[Mapping]) -> str:
    """Where the CPU time goes, and at what rate; empty on a GPU."""
    cells = []
    for row in rows:
        if LAYERS not in row:
            continue
        seconds, products = median(row['seconds']), row['products']
        cell = {'backbone': f'`{short_name(row["backbone"])}`'}
        for kind, operations in (
            (LAYERS, row['operations'] - products),
            (ATTENTION, products),
        ):
            rate = 2e-9 * operations / (row[kind] * seconds or math.inf)
            cell |= {
                kind: f'{row[kind]:.0%}',
                f'{kind}, GFLOP/s': f'{rate:.0f}' if operations else '',
            }
        cells.append(cell | {REST: f'{row[REST]:.0%}'})
    return markdown_table(cells) if cells else ''


def comparison_page(
    rows: Mapping[str, Sequence[Mapping]],
    command: str,
    sections: Iterable[str] = (),
) -> str:
    """Make a page with the tables of several cases.

    Args:
        rows (Mapping[str, Sequence[Mapping]]): The rows by case.
        command (str): The command that made the page.
        sections (Iterable[str]): Text in front of the tables. Defaults to
            none.

    Returns:
        str: The page in Markdown, which explains its columns.
    """
    every = [row for found in rows.values() for row in found]
    peaks = [gflops(row) for row in every if row['backbone'] == PRODUCT]
    copies = [
        2e-9 * COPIED / median(row['seconds'])
        for row in every
        if row['backbone'] == COPY
    ]
    kept = ' '.join(f'{name}={value}' for name, value in KEEP_FREED.items())
    parts = [
        f'# Benchmark\n\nMade by `{command}` on {every[0]["machine"]}, with '
        'random weights. Each row is the backbone of the named model or '
        'config. Without another note, it runs eagerly in float32.\n',
        '- The backbones of a table take turns, each in a process of its own. '
        f'*time* is the median of {len(every[0]["seconds"])} rounds, in each '
        'the second of two steps. *speed* is relative to the first backbone: '
        '2 is twice as fast. Ratios of times are medians of the ratios of '
        'each round, with their smallest and largest in brackets.',
        '- *operations* are the multiply-accumulates of the whole batch. A '
        'training step counts as three times the inference. One '
        'multiply-accumulate is two FLOPs.',
        '- *of the peak* compares GFLOP/s with a large matrix product of '
        'torch, which takes turns with the backbones. It reached '
        f'{min(peaks):.0f} to {max(peaks):.0f} GFLOP/s.'
        + (f' A copy reached {max(copies):.0f} GB/s.' if copies else ''),
        '- *memory (MiB)* is the peak above the weights, measured in another '
        'process; *memory* is relative to the first backbone. On CPUs, that '
        'process returns freed memory at once, because reused memory does not '
        'raise the peak.',
        '- *layers* is the share of the time in convolutions and linear '
        'layers, *attention* in products of activations and the softmax, and '
        '*rest* in norms, activations, sums and copies.',
        '- *start (s)* is the time until a compiled backbone has its first '
        'features, without anything cached by an earlier run.',
        '- *freed memory kept* means that every backbone of the table ran '
        f'with `{kept}`. By default, glibc returns the memory of large '
        'tensors to the system, and the next layer waits for new pages.\n',
        'Words before a name: `plain:` computes the equations as they stand '
        'in the paper (`fast=False`) with the same weights; `compile:` uses '
        '`torch.compile`, in inference with constant weights (`freezing`); '
        '`compile_blocks:` uses `mmhatnet.models.compiling.compile_blocks`, '
        'which compiles one block of each stage; '
        '`cuda_graph:` replays a CUDA graph; '
        '`model:` predicts with the whole model, from pixels to boxes or '
        'labels, of which random weights find another number; '
        '`with_cp:` computes the blocks again in the backward pass; '
        '`channels_last:` uses that memory format for weights and images.\n',
        *sections,
    ]
    for case, found in rows.items():
        title = case[0].upper() + case[1:]
        parts += [f'## {title}\n', comparison_table(found), '']
        shares = _profile_table(found)
        if shares:
            parts += ['Shares of the time, by the profiler:\n', shares, '']
    return '\n'.join(parts)
