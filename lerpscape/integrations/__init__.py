"""Networks, data and trainers of other libraries: Hugging Face's transformers and peft, and Lightning.

Each is imported when asked for: `pip install "lerpscape[hf]"`, `"lerpscape[peft]"`, `"lerpscape[lightning]"`.

>>> import lerpscape as ls
>>> ls.integrations.hugging_face.__name__
'hugging_face'
"""

from typing import TYPE_CHECKING

from lerpscape.base.lazy_names import attach

if TYPE_CHECKING:
    from lerpscape.integrations.callbacks import (
        lightning_callback as lightning_callback,
        trainer_callback as trainer_callback,
    )
    from lerpscape.integrations.folders import HuggingFace as HuggingFace, hugging_face as hugging_face
    from lerpscape.integrations.text import TextBlocks as TextBlocks, text_blocks as text_blocks

__getattr__, __dir__, __all__ = attach(__name__, __file__)
