"""The backbone on the Hugging Face hub; needs huggingface_hub."""

from pathlib import Path
from typing import Any

from huggingface_hub import PyTorchModelHubMixin

from .models import HATNet


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
    """

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        config: Any = None,
        **kwargs,
    ) -> str | None:
        """Save the arguments and the weights, as the mixin does.

        Args:
            save_directory (str | Path): The folder.
            config (Any, optional): The arguments. Defaults to None, those of
                the constructor with the current G1 and G2.
            **kwargs: As in huggingface_hub.

        Returns:
            str, optional: The address of the commit, if there is one.
        """
        if config is None:
            arguments: Any = self._hub_mixin_config
            grids = dict(grid_sizes=self.grid_sizes, ds_ratios=self.ds_ratios)
            config = dict(arguments, **grids)
        return super().save_pretrained(save_directory, config=config, **kwargs)
