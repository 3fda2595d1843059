"""What numbers in slots cost: seconds of the primitives by ring and limbs, memory, keys, what is sent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from glyphc.ir.instructions import ClientSpec, Free, Instruction, Load, Schedule, Store
from glyphc.ir.slot_code import check, slot_code
from glyphc.ir.slot_parameters import SlotParameters
from glyphc.ir.slots import Drop, SlotDot, SlotProduct, slot_reads

from .cost import CostModel, SlotRow
