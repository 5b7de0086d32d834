"""The backbone on the Hugging Face hub; needs huggingface_hub."""

import json
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin

from ..models import HATNet
from ..models.archs import as_plain, check_plain
from ..weights.files import read_checkpoint, unwrap_state_dict
from ..weights.loading import check_weights

ARGUMENTS = signature(HATNet).parameters
# What a folder that does not fit can raise, beside ValueError.
UNFIT = (
    *(ArithmeticError, AssertionError, AttributeError, IsADirectoryError),
    *(KeyError, RuntimeError, TypeError),
)


def _encode(value: object) -> object:
    """Convert an array to its content for JSON, anything else to its name."""
    plain = as_plain(value)
    return repr(value) if plain is value else plain


class HubHATNet(
    HATNet,
    PyTorchModelHubMixin,
    library_name='mmhatnet',
    license='apache-2.0',
    paper_url='https://arxiv.org/abs/2106.03180',
    pipeline_tag='image-feature-extraction',
):
    """A HATNet with ``from_pretrained``, ``save_pretrained``, ``push_to_hub``.

    These are the methods of huggingface_hub's mixin. They read and write the
    arguments as JSON and the weights as safetensors. The arguments are those
    of :class:`~mmhatnet.models.HATNet`.

    A folder may be untrusted: ``from_pretrained`` accepts only plain
    arguments, the names of well-known norms and activations, and weights that
    fit in every key and shape and are finite, whatever ``strict`` is.
    Arguments of the call may be of any kind.
    """

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        config: Any = None,
        **kwargs: Any,
    ) -> str | None:
        """Save the arguments, with the current G1 and G2, and the weights.

        The arguments of this method are those of huggingface_hub's mixin.

        Raises:
            ValueError: If an argument cannot be stored, such as a class.
        """
        if config is None:
            arguments: Any = self._hub_mixin_config
            grids = dict(grid_sizes=self.grid_sizes, ds_ratios=self.ds_ratios)
            config = dict(arguments, **grids, init_cfg=None)
            config = json.loads(json.dumps(config, default=_encode))
            check_plain(config, ARGUMENTS)
        return super().save_pretrained(save_directory, config=config, **kwargs)

    @classmethod
    def _is_jsonable(cls, value: Any) -> bool:
        # The mixin would silently leave the others out of the file.
        return True

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, **kwargs: Any
    ) -> Any:
        """Load a folder or a repository, as the mixin does, in eval mode.

        Args:
            pretrained_model_name_or_path (str | Path): The folder, or the name
                of the repository.
            **kwargs: As in huggingface_hub, and arguments of HATNet, which
                replace those of the folder.

        Raises:
            ValueError: If ``config`` is given, or an argument or a weight in
                the folder is not valid.
        """
        if 'config' in kwargs:  # the mixin would ignore the file's
            raise ValueError('give arguments by their names, not as config')
        try:
            return super().from_pretrained(
                pretrained_model_name_or_path, **kwargs
            )
        except UNFIT as error:
            raise ValueError(
                f'{pretrained_model_name_or_path!s:.200} cannot be loaded '
                'with its and the given arguments, '
                f'{type(error).__name__}: {error!s:.200}'
            ) from error

    @classmethod
    def _from_pretrained(
        cls, *, config: dict | None = None, **kwargs: Any
    ) -> Any:
        # The mixin has added the file's arguments to those of the call.
        found = (config or {}).items()
        check_plain(
            {k: v for k, v in found if kwargs.get(k, v) is v}, ARGUMENTS
        )
        with torch.device('meta'):  # a file may ask for any size
            return super()._from_pretrained(**kwargs)

    @classmethod
    def _load_as_safetensor(
        cls, model: Any, model_file: str, map_location: str, strict: bool
    ) -> Any:
        with torch.device('cpu'):
            weights = unwrap_state_dict(read_checkpoint(model_file))
            check_weights(weights, model.state_dict(), str(model_file))
            model = cls(**model._hub_mixin_config)
        model.load_state_dict(weights)
        return model.to(map_location).eval()

    _load_as_pickle = _load_as_safetensor  # by content; it never unpickles
