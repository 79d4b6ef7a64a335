"""Baseline without learning: heart rate by classical signal processing."""
