from mmhatnet.analysis.report import markdown_table, read_csv, write_csv


def test_markdown():
    table = markdown_table(
        [
            {'model': 'a', '#FLOPs (G)': '1.5', 'diff.': '-0.4 %'},
            {'diff.': '+12 %', 'model': 'b'},
        ]
    )
    assert table.splitlines() == [
        '| model | #FLOPs (G) | diff. |',
        '| --- | ---: | ---: |',
        '| a | 1.5 | -0.4 % |',
        '| b |  | +12 % |',
    ]


def test_csv_there_and_back(tmp_path):
    path = tmp_path / 'folder' / 'x.csv'
    rows = [
        dict(name='a, b', size=224, G1=(8, 7, 7), seconds=0.25, best=True),
        dict(name='c', size=32, note='sha256:1e5'),
    ]
    assert read_csv(path) == []
    write_csv(path, rows)
    assert read_csv(path) == rows
    write_csv(path, [dict(value=float('inf'))])
    assert read_csv(path) == [dict(value=float('inf'))]
