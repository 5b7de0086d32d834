"""Report what tests find on a GPU: a plugin of pytest, for gpu_check.sh."""

import json
from pathlib import Path

import pytest

from mmhatnet.analysis.report import markdown_table
from mmhatnet.engine.provenance import describe_run
from mmhatnet.utils.atomic import write_text
from mmhatnet.utils.device import find_device


def pytest_addoption(parser):
    parser.addoption('--out', type=Path, default=Path('gpu_check'))


def pytest_configure(config):
    try:
        device = find_device(config.getoption('device') or 'cuda')
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    config.pluginmanager.register(Report(device, config.getoption('out')))


class Report:
    """Writes report.json and report.md, anew after each test."""

    def __init__(self, device, folder):
        self.folder, self.checks = folder, []
        self.run = describe_run(device)

    def pytest_runtest_logreport(self, report):
        if report.when != 'call' and report.passed:
            return
        values = [v for k, v in report.user_properties if k == 'found']
        found = '; '.join(values)
        if report.skipped:
            found = report.longrepr[2].removeprefix('Skipped: ')
        elif report.failed:
            found = report.longrepr.reprcrash.message
        check = dict(
            name=report.nodeid.partition('::test_')[2].replace('_', ' '),
            verdict=report.outcome,
            found=' '.join(found.split()),
            seconds=round(report.duration, 1),
        )
        self.checks.append(check)
        self.write()

    def write(self):
        cells = [{k: str(v) for k, v in row.items()} for row in self.checks]
        title = f'# HAT-Net on {self.run["machine"]}'
        content = json.dumps(dict(**self.run, checks=self.checks), indent=1)
        for name, text in {
            'report.json': content,
            'report.md': f'{title}\n\n{markdown_table(cells)}',
        }.items():
            write_text(self.folder / name, f'{text}\n')

    def pytest_terminal_summary(self, terminalreporter):
        terminalreporter.write_line(str(self.folder / 'report.md'))
