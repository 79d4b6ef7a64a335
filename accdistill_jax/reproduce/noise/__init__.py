"""Scores of a finished distillation by level of sensor noise, beside the classical routes."""
