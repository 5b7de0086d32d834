"""Write verified files.

``tools/deployment/export.py`` is a command over this module.
"""

import json
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import torch
from mmengine.config import Config

from ..models.archs import Grids, as_integers
from ..runtime import OnnxModel
from ..runtime.grids import INPUTS
from ..runtime.metadata import METADATA
from ..utils.atomic import replacing
from ..utils.hashes import sha256_of
from .base_graph import Graph
from .export import describe, export_program
from .operators import translations
from .quantization import read_images, to_float16, to_int8
from .verification import as_arrays, check_errors, verify

if TYPE_CHECKING:
    from torch.export import ExportedProgram

ONNX = 'onnx', 'onnxruntime', 'onnxscript'
# With which a file whose G1 and G2 are inputs is compared, too.
OTHER_GRIDS: tuple[Grids, ...] = (((5, 3, 64), (3, 7, 1)),)
SUFFIXES = {'onnx': '.onnx', 'torch-export': '.pt2'}


def export_files(
    graph: Graph,
    cfg: Config,
    checkpoint: str,
    out: Path,
    free_grids: bool = False,
    precision: str = 'float32',
    calibration: Sequence[Path] = (),
    report: Callable[[Grids, list[dict]], None] | None = None,
) -> None:
    """Write a file that is verified, or none.

    Args:
        graph (Graph): The graph.
        cfg (Config): The config of its model.
        checkpoint (str): The source of its weights.
        out (Path): The file, ``*.onnx`` or ``*.pt2``. Beside an ONNX file is
            ``*.onnx.sha256``, for ``sha256sum --check``.
        free_grids (bool): Make G1 and G2 inputs of an ONNX file. Those of the
            graph are then the first ones of ``OnnxModel``. Defaults to False.
        precision (str): A key of TOLERANCES. Defaults to 'float32'.
        calibration (Sequence[Path]): Images for 'int8'.
        report (Callable, optional): Called with G1, G2, and the rows of
            :func:`~mmhatnet.deploy.verification.verify`.

    Raises:
        ImportError: If a package for ONNX files is missing.
        ValueError: If G1 and G2 cannot be inputs, or the file differs from
            PyTorch.
    """
    missing = [name for name in ONNX if not find_spec(name)]
    if missing and out.suffix == '.onnx':
        names = ' '.join(missing)
        raise ImportError(f'ONNX files need {names}: pip install {names}')
    for _ in read_images(calibration, describe(graph, cfg)):
        pass  # raises if one cannot be read, before the minutes of an export
    backbone = graph.model.backbone
    configured = backbone.grid_sizes, backbone.ds_ratios
    settings = [configured, *OTHER_GRIDS] if free_grids else [configured]
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix='.part', dir=out.parent) as folder:
        part = Path(folder, out.name)
        metadata = describe(graph, cfg, checkpoint, precision)
        program = export_program(graph, free_grids)
        save(program, metadata, part, calibration)
        try:
            for setting in settings:
                backbone.set_grids(*setting)
                rows = verify(graph, _load(part, setting))
                if report:
                    report(setting, rows)
                check_errors(rows, precision)
        finally:
            backbone.set_grids(*configured)
        if out.suffix == '.onnx':
            record = write_hash(part)
            # A file that is replaced has no hash until the new one is in
            # place, so that none differs from its hash after a kill.
            out.with_name(record.name).unlink(missing_ok=True)
            part.replace(out)
            record.replace(out.with_name(record.name))
        else:
            part.replace(out)


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
        input_names=['images', *INPUTS],
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


def _load(
    path: Path, setting: Grids
) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Load a file as a function from images to the list of outputs."""
    if path.suffix != '.onnx':
        return as_arrays(torch.export.load(path).module())
    model = OnnxModel(path)
    if model.has_free_grids:
        model.set_grids(*map(as_integers, setting))
    return model.run


def write_hash(file: Path) -> Path:
    """Write ``<file>.sha256``, as ``sha256sum`` does."""
    record = file.with_name(f'{file.name}.sha256')
    text = f'{sha256_of(file)}  {file.name}\n'
    with replacing(record) as part:
        part.write_text(text, 'utf-8', newline='\n')
    return record


def write_curve(path: Path, curve: dict) -> None:
    """Write a curve into the metadata of an ONNX file, and its new hash."""
    import onnx

    proto = onnx.load(path)
    for entry in proto.metadata_props:
        if entry.key == METADATA:
            metadata = json.loads(entry.value) | dict(curve=curve)
            entry.value = json.dumps(metadata)
    record = path.with_name(f'{path.name}.sha256')
    record.unlink(missing_ok=True)  # none differs from its hash after a kill
    with replacing(path) as part:
        onnx.save(proto, part)
    write_hash(path)
