"""Check everything that a GPU does differently, and report it.

``tools/gpu_check.sh`` is a command over this module.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from ..analysis.report import markdown_table
from ..engine.cli import one_line_errors
from ..engine.provenance import describe_machine
from ..utils.device import find_device
from .checks import CHECKS, SkipError


@dataclass
class Verdict:
    """What a check found.

    Attributes:
        name (str): The check.
        verdict (str): 'passed', 'failed' or 'skipped'.
        found (str): One line.
        seconds (float): How long it took.
    """

    name: str
    verdict: str
    found: str
    seconds: float


def run_checks(
    device: torch.device, names: Sequence[str] = tuple(CHECKS)
) -> Iterator[Verdict]:
    """Run checks one after the other, and print their verdicts.

    Args:
        device (torch.device): The device.
        names (Sequence[str]): Keys of CHECKS. Defaults to all.

    Yields:
        Verdict: As soon as it is there.
    """
    for name in tqdm(names, unit='check'):
        start = time.perf_counter()
        try:
            verdict, found = 'passed', CHECKS[name](device)
        except SkipError as error:
            verdict, found = 'skipped', str(error)
        except Exception as error:  # the report is for the others, too
            verdict, found = 'failed', f'{type(error).__name__}: {error}'
        seconds = round(time.perf_counter() - start, 1)
        found = found.strip().replace('\n', ' ')
        tqdm.write(f'{verdict:8} {name}: {found}')
        if device.type == 'cuda':
            torch.cuda.empty_cache()
        yield Verdict(name, verdict, found, seconds)


def write_report(
    verdicts: Sequence[Verdict], device: torch.device, folder: Path
) -> None:
    """Write report.json and report.md.

    Args:
        verdicts (Sequence[Verdict]): The verdicts.
        device (torch.device): The device.
        folder (Path): The folder.
    """
    rows, machine = [asdict(v) for v in verdicts], describe_machine(device)
    cells = [{**row, 'seconds': f'{row["seconds"]:.1f}'} for row in rows]
    report = dict(machine=machine, checks=rows)
    (folder / 'report.json').write_text(
        json.dumps(report, indent=1) + '\n', 'utf-8'
    )
    (folder / 'report.md').write_text(
        f'# HAT-Net on {machine}\n\n{markdown_table(cells)}\n', 'utf-8'
    )


def main() -> None:
    """Run the checks of the command line."""
    parser = argparse.ArgumentParser(
        'gpu_check.sh',
        description='Check HAT-Net on a GPU: precision, training, DDP, '
        'compiling, memory. Writes report.md and report.json; the exit status '
        'says whether all passed.',
    )
    parser.add_argument(
        'checks',
        nargs='*',
        metavar='CHECK',
        help=f'any of {", ".join(CHECKS)}; default: all',
    )
    parser.add_argument('--device', default='cuda', help='default: cuda')
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('gpu_check'),
        metavar='FOLDER',
        help='folder of the report (default: gpu_check)',
    )
    args = parser.parse_args()
    for name in set(args.checks) - set(CHECKS):
        parser.error(f"no check '{name}': choose from {', '.join(CHECKS)}")
    device = find_device(args.device)
    args.out.mkdir(parents=True, exist_ok=True)
    verdicts = []
    for verdict in run_checks(device, args.checks or tuple(CHECKS)):
        verdicts.append(verdict)
        write_report(verdicts, device, args.out)  # for one that is stopped
    print(args.out / 'report.md')
    sys.exit(any(v.verdict == 'failed' for v in verdicts))


if __name__ == '__main__':
    sys.argv[0] = 'gpu_check.sh'  # in errors
    with one_line_errors():
        main()
