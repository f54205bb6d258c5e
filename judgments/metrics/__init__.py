"""Recorded verdicts: agreement, bias, calibration, panels and rankings."""
