"""What :mod:`.side_by_side` measures: backbones and models in their forms."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache

import torch
from mmcv.cnn.bricks import DropPath
from mmengine.config import Config, ConfigDict
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor

from ..apis.zoo import load_backbone_config, load_model_config
from ..datasets.random_batch import make_batch
from ..models import HATNet
from ..models.compiling import capture_cuda_graph, compile_blocks
from ..utils.device import find_device
from .complexity import Complexity, measure_complexity

FORMS = (
    'plain',
    'compile',
    'compile_blocks',
    'cuda_graph',
    'channels_last',
    'with_cp',
    'model',
)
COMPILED = {'compile', 'compile_blocks'}
# What the devices can do at best; the copy is measured on GPUs only.
PRODUCT, COPY = 'matrix product', 'copy'
COPIED = 2**29  # bytes


@dataclass(frozen=True)
class Case:
    """Backbones to measure in turns, and how.

    Attributes:
        backbones (tuple[str, ...]): Names of models or config files, each
            with any of FORMS in front (``plain:NAME``). All are compared with
            the first.
        shape (tuple[int, int]): Height and width of the images in pixels.
        batch (int): Number of images.
        train (bool): Measure forward and backward instead of inference.
            Defaults to False.
        dtype (str): Other types than 'float32' use autocast. Defaults to
            'float32'.
        keep_memory (bool): Let the allocator of the CPU keep freed memory.
            Defaults to False, the allocator as it comes.
    """

    backbones: tuple[str, ...]
    shape: tuple[int, int]
    batch: int
    train: bool = False
    dtype: str = 'float32'
    keep_memory: bool = False

    def __str__(self) -> str:
        parts = [
            'training step' if self.train else 'inference',
            f'{self.shape[0]}x{self.shape[1]} (H x W)',
            f'batch {self.batch}',
        ]
        if self.dtype != 'float32':
            parts.append(self.dtype)
        if self.keep_memory:
            parts.append('freed memory kept')
        return ', '.join(parts)


def split_forms(backbone: str) -> tuple[list[str], str]:
    """Split a backbone of a case.

    Args:
        backbone (str): For example ``plain:hatnet-tiny_8xb128_in1k``.

    Returns:
        tuple[list[str], str]: The forms, and the model or config file.
    """
    forms = []
    while (parts := backbone.partition(':'))[0] in FORMS:
        forms.append(parts[0])
        backbone = parts[2]
    return forms, backbone


def subject_of(backbone: str) -> str:
    """Get what a backbone of a case computes, in whatever form.

    Args:
        backbone (str): A backbone of a case.

    Returns:
        str: The model or config file, after 'model:' for whole models.
    """
    forms, name = split_forms(backbone)
    return f'model:{name}' if 'model' in forms else name


def check_form(backbone: str, case: Case, device: str) -> None:
    """Check that a backbone has its forms, before anything is measured.

    Args:
        backbone (str): A backbone of the case.
        case (Case): The case.
        device (str): The device.

    Raises:
        FileNotFoundError: If a config file does not exist.
        ValueError: If the name is unknown or has no such form.
    """
    forms, name = split_forms(backbone)
    cfg = load_backbone_config(name)
    if {'plain', 'compile_blocks'} & set(forms) and (
        MODELS.get(cfg.type) is not HATNet
    ):
        raise ValueError(
            f'plain: and compile_blocks: are forms of HATNet, not of {name}'
        )
    if 'model' in forms and (case.train or set(forms) - {'model', 'plain'}):
        raise ValueError('model: is for inference, alone or with plain:')
    if 'cuda_graph' in forms and (
        case.train or torch.device(device).type != 'cuda'
    ):
        raise ValueError('cuda_graph: is for inference on a GPU')


def read_form(backbone: str) -> ConfigDict:
    """Read the config of a backbone or model in its form.

    Args:
        backbone (str): A backbone of a case.

    Returns:
        ConfigDict: The config, with random weights.
    """
    forms, name = split_forms(backbone)
    backbone_cfg = cfg = load_backbone_config(name)
    if 'model' in forms:
        whole = load_model_config(name)
        cfg = whole.model
        cfg.backbone = backbone_cfg
        cfg.setdefault('data_preprocessor', whole.get('data_preprocessor', {}))
    backbone_cfg.init_cfg = None
    if 'plain' in forms:
        backbone_cfg.fast = False
    if 'with_cp' in forms:
        backbone_cfg.with_cp = True
    return cfg


@cache
def count_operations(subject: str, shape: tuple[int, int]) -> Complexity:
    """Count the operations for one image.

    Args:
        subject (str): From :func:`subject_of`.
        shape (tuple[int, int]): Height and width in pixels.

    Returns:
        Complexity: The counts.
    """
    name = split_forms(subject)[1]
    if subject != name:
        return measure_complexity(load_model_config(name), shape)
    return measure_complexity(Config(dict(model=read_form(name))), shape)


def _autocast(case: Case, device: str) -> AbstractContextManager:
    if case.dtype == 'float32':
        return nullcontext()
    dtype = getattr(torch, case.dtype)
    return torch.autocast(torch.device(device).type, dtype)


def build_step(
    backbone: str, case: Case, device: str
) -> Callable[[], tuple[Tensor, ...]]:
    """Make the function to measure.

    All forms of a backbone have the same random weights and images.

    Args:
        backbone (str): A backbone of the case.
        case (Case): The case.
        device (str): The device.

    Returns:
        Callable: Computes the features, (N, C_i, H_i, W_i) of each stage, and
        in training also the gradients. For ``model:``, it predicts from
        pixels, and returns nothing, as predictions differ in number.
    """
    forms, _ = split_forms(backbone)
    torch.manual_seed(0)
    if 'model' in forms:
        return _build_prediction(backbone, case, device)
    cfg = read_form(backbone)
    model = MODELS.build(cfg).to(device)
    model.train(case.train)
    for module in model.modules():
        if isinstance(module, DropPath):
            module.eval()  # it would drop other paths in each form
    channels = cfg.get('in_channels', 3)
    image = torch.rand(case.batch, channels, *case.shape, device=device)
    if 'channels_last' in forms:
        model.to(memory_format=torch.channels_last)
        image = image.contiguous(memory_format=torch.channels_last)
    forward = torch.compile(model) if 'compile' in forms else model
    if 'compile_blocks' in forms:
        compile_blocks(model)

    def step() -> tuple[Tensor, ...]:
        with torch.set_grad_enabled(case.train):
            with _autocast(case, device):
                outs = forward(image)
            if case.train:
                model.zero_grad()
                sum(out.float().mean() for out in outs).backward()
            return outs

    if 'compile' in forms and not case.train:
        from torch._inductor import config as inductor

        # With constant weights, the convolutions of a CPU are fused with the
        # operations after them. As an option of torch.compile, the setting
        # would come after the tracing. The first call compiles.
        with inductor.patch(freezing=True):
            step()
    if 'cuda_graph' in forms:
        return capture_cuda_graph(step, device)
    return step


def _build_prediction(
    backbone: str, case: Case, device: str
) -> Callable[[], tuple]:
    """Function that predicts with a whole model, as mm's test does."""
    scope = load_model_config(split_forms(backbone)[1]).default_scope
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(read_form(backbone))
        model.init_weights()
    model = revert_sync_batchnorm(model).to(device).eval()
    batch = make_batch(scope, case.shape, case.batch)

    def step() -> tuple:
        with torch.no_grad(), _autocast(case, device):
            model.test_step(batch)
        return ()

    return step


def product_side(device: str) -> int:
    """Get the size of the matrices whose product is the peak.

    Args:
        device (str): The device.

    Returns:
        int: Rows and columns of each matrix.
    """
    return 2048 if torch.device(device).type == 'cpu' else 8192


def _build_product(case: Case, device: str) -> Callable[[], Tensor]:
    """Function that computes the matrix product."""
    if torch.device(device).type == 'cuda':
        # TF32, which is the default for convolutions of float32 on GPUs.
        torch.set_float32_matmul_precision('high')
    dtype, side = getattr(torch, case.dtype), product_side(device)
    a, b = torch.rand(2, side, side, device=device).to(dtype)
    return lambda: a @ b


def _build_copy(_: Case, device: str) -> Callable[[], Tensor]:
    """Function that reads and writes COPIED bytes each."""
    source = torch.zeros(COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def references(device: str) -> dict[str, Callable]:
    """Get what takes turns with the backbones, as the best of a device.

    Args:
        device (str): The device.

    Returns:
        dict[str, Callable]: Name, and the function that makes the function to
        measure from a case and a device.

    Raises:
        ValueError: If there is no such device.
    """
    on_gpu = find_device(device).type == 'cuda'
    found = {PRODUCT: _build_product}
    return found | {COPY: _build_copy} if on_gpu else found
