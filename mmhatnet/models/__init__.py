from typing import TYPE_CHECKING, Any

from ..registry import MODELS
from .fast import GroupNorm1
from .hatnet import HATNet

if TYPE_CHECKING:
    from .cls_head import HATNetClsHead

__all__ = ['GroupNorm1', 'HATNet', 'build_cls_head']


@MODELS.register_module('HATNetClsHead')
def build_cls_head(**kwargs: Any) -> 'HATNetClsHead':
    """Build a :class:`~mmhatnet.models.cls_head.HATNetClsHead`.

    The registry contains this function instead of the class. The class derives
    from one of mmpretrain, which a segmentor or a detector must not import.

    Args:
        **kwargs: The arguments of the class.
    """
    from .cls_head import HATNetClsHead

    return HATNetClsHead(**kwargs)
