"""Write verified files, several with one file of weights.

``tools/deployment/export.py`` is a command over this module.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from mmengine.config import Config

from ..models.archs import complete_grids
from ..runtime import OnnxModel
from ..runtime.metadata import METADATA
from ..utils.hashes import sha256_of
from .base_graph import Graph
from .export import describe, export_program
from .operators import translations
from .quantization import read_images, to_float16, to_int8
from .verification import as_arrays, check_errors, verify

if TYPE_CHECKING:
    from torch.export import ExportedProgram

ONNX = 'onnx', 'onnxruntime', 'onnxscript'
SUFFIXES = {'onnx': '.onnx', 'torch-export': '.pt2'}


def export_files(
    graph: Graph,
    cfg: Config,
    checkpoint: str,
    out: Path,
    settings: Sequence[tuple] = ((None, None),),
    precision: str = 'float32',
    calibration: Sequence[Path] = (),
    report: Callable[[str, list[dict]], None] | None = None,
) -> list[Path]:
    """Write and verify one file for each pair of G1 and G2.

    Files are moved to their places when all of them are verified. With several
    settings, these are part of the names, and share their weights.

    Args:
        graph (Graph): The graph; its G1 and G2 are changed.
        cfg (Config): The config of its model.
        checkpoint (str): The source of its weights.
        out (Path): The file, ``*.onnx`` or ``*.pt2``.
        settings (Sequence[tuple]): Pairs of G1 and G2; None is the configured
            value. Defaults to that alone.
        precision (str): A key of TOLERANCES. Defaults to 'float32'.
        calibration (Sequence[Path]): Images for 'int8'.
        report (Callable, optional): Called with the name of each file and
            the rows of :func:`~mmhatnet.deploy.verification.verify`.

    Returns:
        list[Path]: The files.

    Raises:
        ImportError: If a package for ONNX files is missing.
        ValueError: If a setting is not valid, there are several for
            ``*.pt2``, or a file differs from PyTorch.
    """
    missing = [name for name in ONNX if not find_spec(name)]
    if missing and out.suffix == '.onnx':
        names = ' '.join(missing)
        raise ImportError(f'ONNX files need {names}: pip install {names}')
    backbone = graph.model.backbone
    settings = complete_grids(backbone, settings)
    if len(settings) > 1 and out.suffix != '.onnx':
        raise ValueError(
            'only ONNX files can share their weights between several G1 or G2'
        )
    for _ in read_images(calibration, describe(graph, cfg)):
        pass  # raises if one cannot be read, before the minutes of an export
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix='.part', dir=out.parent) as folder:
        parts = []
        for setting in settings:
            backbone.set_grids(*setting)
            name = out.name
            if len(settings) > 1:
                g1, g2 = ('-'.join(map(str, sizes)) for sizes in setting)
                name = f'{out.stem}_g1-{g1}_g2-{g2}{out.suffix}'
            metadata = describe(graph, cfg, checkpoint, precision)
            part = Path(folder, name)
            save(export_program(graph), metadata, part, calibration)
            parts.append(part)
        shared = [share_weights(parts, out.stem)] if len(parts) > 1 else []
        for part, setting in zip(parts, settings, strict=True):
            backbone.set_grids(*setting)
            run = (
                OnnxModel(part).run
                if out.suffix == '.onnx'
                else as_arrays(torch.export.load(part).module())
            )
            rows = verify(graph, run)
            if report:
                report(part.name, rows)
            check_errors(rows, precision)
        hashed = parts if out.suffix == '.onnx' else ()
        records = [write_hashes([part, *shared]) for part in hashed]
        # A file that is replaced has no hash until all are in place, so that
        # none differs from its hash after a kill.
        for record in records:
            out.with_name(record.name).unlink(missing_ok=True)
        files = shared + parts
        for file in files + records:
            file.replace(out.with_name(file.name))
        return [out.with_name(file.name) for file in files]


def save(
    program: 'ExportedProgram',
    metadata: dict,
    path: Path,
    calibration: Sequence[Path] = (),
) -> None:
    """Write a program as ``*.onnx`` or ``*.pt2``.

    Its metadata have the precision; the images of a calibration are for int8.
    """
    text = json.dumps(metadata)
    if path.suffix == '.pt2':
        torch.export.save(program, path, extra_files={METADATA: text})
        return
    import onnx

    made = torch.onnx.export(
        program,
        input_names=['images'],
        output_names=metadata['outputs'],
        dynamo=True,
        verbose=False,
        custom_translation_table=translations(),
    )
    proto = made.model_proto
    for node in proto.graph.node:
        # Traces of the source code: as large as the graph, and with the paths
        # of this machine.
        node.ClearField('metadata_props')
    entry = proto.metadata_props.add()
    entry.key, entry.value = METADATA, text
    onnx.checker.check_model(proto)
    onnx.save(proto, path)
    if metadata['precision'] == 'float16':
        to_float16(path)
    elif metadata['precision'] == 'int8':
        to_int8(path, read_images(calibration, metadata))


def write_hashes(files: Sequence[Path]) -> Path:
    """Write ``<first file>.sha256`` for files, as ``sha256sum`` does."""
    record = files[0].with_name(f'{files[0].name}.sha256')
    lines = [f'{sha256_of(file)}  {file.name}\n' for file in files]
    record.write_text(''.join(lines), 'utf-8', newline='\n')
    return record


def share_weights(paths: Sequence[Path], name: str) -> Path:
    """Move the weights of ONNX files to ``NAME-HASH.data``, each only once.

    The hash in the name keeps it from replacing the weights of other files.
    """
    import onnx

    protos = [onnx.load(path) for path in paths]
    tensors = [each for proto in protos for each in proto.graph.initializer]
    places, size = {}, 0
    for values in (tensor.raw_data for tensor in tensors):
        # onnx keeps small ones inside, too.
        if len(values) >= 1024 and values not in places:
            places[values] = size
            size += len(values)
    digest = hashlib.sha256(b''.join(places)).hexdigest()[:8]
    data = paths[0].with_name(f'{name}-{digest}.data')
    data.write_bytes(b''.join(places))
    for tensor in tensors:
        values = tensor.raw_data
        if values in places:
            onnx.external_data_helper.set_external_data(
                tensor, data.name, places[values], len(values)
            )
            tensor.ClearField('raw_data')
    for path, proto in zip(paths, protos, strict=True):
        onnx.save(proto, path)
    return data
