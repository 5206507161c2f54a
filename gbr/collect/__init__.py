"""Measured collections of this machine: which configuration of a tensor program is fast here.

``python -m gbr.collect tile`` times tiled loop nests and writes one ``.npz`` per kernel, in the format of TpuGraphs.
"""
