"""Constants shared by all implementations of an operation; C++ and CUDA sources are compiled with their values."""

ADAM_EPSILON = 1e-8
"""Added to the root of the second moment (Kingma & Ba 2015)"""
NORM_EPSILON = 1e-5
"""Added to the variance of a row in a layer norm (Ba et al. 2016)"""
