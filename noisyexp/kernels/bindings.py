"""What Python hands to the kernels of every machine: the structures and numbers of structs.h."""

from __future__ import annotations

from ctypes import Structure, c_double, c_int32, c_int64, c_uint32, c_void_p

FORM_HARD, FORM_OUTPUT, FORM_INPUT, FORM_INPUT_SATURATED, FORM_INPUT_LEARNED = range(5)
FORM_INPUT_LEARNED_CODE, FORM_SOFT = 5, 6
MULTIPLIER_NORMAL, MULTIPLIER_HALF_NORMAL, MULTIPLIER_MEAN = range(3)
CHUNKS, ROWS = 16, 4
MAX_ACTIVATIONS = 5
CELLS = ("lstm", "gru")
"""The recurrent cells that have kernels, `<cell>_<way>`."""
WAYS = ("forward", "backward")


class NoiseKey(Structure):
    """`noise_key` of structs.h: where a unit's draws come from."""

    _fields_ = [("key0", c_uint32), ("key1", c_uint32), ("call", c_uint32)]


class Activation(Structure):
    """`activation` of structs.h: one unit's equation, settings and draws."""

    _fields_ = [
        *((name, c_int32) for name in ("form", "multiplier", "clip")),
        ("key", NoiseKey),
        *((name, c_double) for name in ("slope", "offset", "low", "high", "threshold")),
        *((name, c_double) for name in ("alpha", "c", "side", "mean")),
        ("p", c_void_p),
        ("p_stride", c_int64),
        ("key_from", c_void_p),
        ("given", c_void_p),
        ("p_grad", c_void_p),
    ]


class Layer(Structure):
    """`layer` of structs.h: the arrays of one layer in one direction."""

    _fields_ = [
        ("batch", c_int64),
        ("hidden", c_int64),
        *((name, c_int32) for name in ("threads", "sums_apart")),
        ("activations", Activation * MAX_ACTIVATIONS),
        *((name, c_void_p) for name in ("mask", "h_start", "c_start", "bias")),
        *((name, c_void_p) for name in ("gates", "cells", "output", "recurrent", "d_output")),
        *((name, c_void_p) for name in ("d_gates", "d_recurrent", "d_h", "d_c", "d_carry")),
    ]

    @property
    def gpu_threads(self) -> int:
        """One for every unit and row of a step."""
        return int(self.threads * self.hidden)


class Persistent(Structure):
    """`persistent` of structs.h: all steps on a GPU, see kernels/persistent.py."""

    _fields_ = [
        ("own", Layer),
        ("steps", c_int64),
        *((name, c_int32) for name in ("reverse", "operands", "groups", "slices", "rows")),
        *((name, c_int32) for name in ("units", "chunk", "chunks", "splits", "tile_rows")),
        *((name, c_int32) for name in ("tile_columns", "width", "at_tile", "at_sums")),
        *((name, c_int32) for name in ("at_slots", "at_kept", "at_layer", "bytes")),
        *((name, c_void_p) for name in ("w_hh", "b_ih", "b_hh", "exchange", "arrived")),
        *((name, c_void_p) for name in ("end_h", "end_c", "start", "start_half")),
        *((name, c_void_p) for name in ("output_half", "d_gates_half", "d_recurrent_half")),
        *((name, c_void_p) for name in ("partial", "totals")),
    ]


class Shape(Structure):
    """`shape` of structs.h: (blocks, rows, units) and the threads to use."""

    _fields_ = [
        *((name, c_int64) for name in ("blocks", "rows", "units")),
        ("threads", c_int32),
    ]

    @property
    def gpu_threads(self) -> int:
        """One for every unit in each part."""
        return int(self.threads * self.units)


class StepLoop(Structure):
    """`step_loop` of structs.h: all steps of a layer on a processor in one call."""

    _fields_ = [
        *((name, c_void_p) for name in ("gemm", "step")),
        *((name, c_int64) for name in ("steps", "width")),
        *((name, c_int32) for name in ("reverse", "adds", "carries", "to_start")),
        *((name, c_void_p) for name in ("w", "w_t", "b_hh")),
    ]


class SingleStep(Structure):
    """`single_step` of structs.h: one step of a cell with its products."""

    _fields_ = [
        *((name, c_void_p) for name in ("gemm", "step")),
        *((name, c_int64) for name in ("inputs", "width")),
        ("adds", c_int32),
        *((name, c_void_p) for name in ("x", "w_ih", "w_hh", "b_ih", "b_hh", "bias")),
        *((name, c_void_p) for name in ("d_x", "d_h_start", "d_w_ih", "d_w_hh")),
    ]


class Score(Structure):
    """`score` of structs.h: scores of attention and, for backward, where their gradients go."""

    _fields_ = [
        ("unit", Activation),
        ("size", Shape),
        ("adds", c_int32),
        ("key_strides", c_int64 * 2),
        *((name, c_void_p) for name in ("keys", "q", "v", "scores", "d_scores")),
        *((name, c_void_p) for name in ("d_keys", "d_q", "d_v")),
    ]
