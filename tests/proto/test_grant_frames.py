"""A frame says what the messages say: grants byte for byte, refusals alike."""

from dataclasses import replace

import pytest
from device_strategies import grants
from hypothesis import given
from hypothesis import strategies as st

from farthing.device.frames import GrantFrame
from farthing.device.messages import MAX_COUNT, MAX_HELD_PARTS, Grant, encode
from farthing.device.reject import MessageError
from farthing.money import MAX_AMOUNT_MICROS
