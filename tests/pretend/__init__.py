"""A GPU pretended on the CPU, as far as that goes: a device of its own, and CUDA's rules of autocast there.

Importing this is for processes of their own: it registers the device with torch, for good.
"""

from tests.pretend import autocast as autocast
from tests.pretend.device import DEVICE, pretend

__all__ = ["DEVICE", "pretend"]
