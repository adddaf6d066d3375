"""Remedies that make the int8 model lose less, in numpy: one a file. None costs speed.

equalize   cross-layer equalization, on the float model
pixels     the input on the grid of its pixels; front: as a float model
scales     weight scales with the least squared error
rounding   least-squares rounding of weights
bias       bias correction
ranges     activation ranges from histograms
bench      what all of them work on
walk       applies them layer by layer, on what the quantized layers before really give
"""
