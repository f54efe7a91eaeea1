"""Figures of picking, placing and scaling: before, demanded, after."""
