"""Models: one Hugging Face decoder, one file a mixer, and pretrained checkpoints turned into them.

Importing this package registers `nha` with AutoConfig, AutoModel and AutoModelForCausalLM.

    from models import convert_pretrained
    model = convert_pretrained("path/to/llama")           # every layer's attention becomes NHA, full windows: the same model
    model.set_window(64)                                  # now slots and the last 64 tokens

    from models import load_pretrained
    model = load_pretrained("path/to/gla")                # a checkpoint as it was trained, also by other code
"""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from models.configuration import NHAConfig
from models.convert import convert_pretrained
from models.load import load_pretrained
from models.modeling import NHAForCausalLM, NHAModel

AutoConfig.register(NHAConfig.model_type, NHAConfig, exist_ok=True)
AutoModel.register(NHAConfig, NHAModel, exist_ok=True)
AutoModelForCausalLM.register(NHAConfig, NHAForCausalLM, exist_ok=True)

__all__ = ["NHAConfig", "NHAForCausalLM", "NHAModel", "convert_pretrained", "load_pretrained"]
