"""Ablation: what is lost without some components, against what random ones cost."""
