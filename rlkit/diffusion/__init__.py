"""Diffusion and flows: noise levels, what a network predicts, samplers and guidance. No network and no agent.

Noise is at t = 1 and data are at t = 0 everywhere, flows included: x_t = alpha(t) x0 + sigma(t) eps.
"""
