"""The pocket experts: one small network of our own, trained only on rendered scenes. For demos, tests and CI.

``network``, ``loss``, ``scene_cache``, ``train``: how the weights came to be; ``experts``: the five experts that use them.
"""

from pathlib import Path
from typing import Final

WEIGHTS: Final = Path(__file__).with_name("pocket.safetensors")

STRIDE: Final = 16
"""The network takes pictures whose sides are multiples of this many pixels."""
