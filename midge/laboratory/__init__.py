"""Experiments and what people look at: data, baseline, sweeps, traces, reports."""
