"""The backbone on the Hugging Face hub; needs huggingface_hub."""

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
