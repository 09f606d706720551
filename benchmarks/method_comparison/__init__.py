"""Distillation methods beside no distillation, on real polyps: `python -m benchmarks.method_comparison`."""
